"""`modelyard-registry`, for tests: files count as large from MODELYARD_TEST_LARGE bytes on."""

import os

from registry import cli, verify
from registry.http import versions
from tests.reliability.leash import end_with_parent

if "MODELYARD_TEST_LARGE" in os.environ:
    for module in (verify, versions):
        vars(module)["LARGE"] = int(os.environ["MODELYARD_TEST_LARGE"])

end_with_parent()
cli.main()
