"""The OpenAPI document against the application: generated requests, valid and not, to every operation.

No answer is a 5xx, and every answer is one that the document promises.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzzing
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.testclient import TestClient

from registry import migrate
from registry.app import create_app
from registry.database import Database
from registry.deliveries import target
from registry.settings import Settings
from tests.servers.app import ADMIN, promote, publish

EXAMPLES = 15
STRICTER_THAN_THE_DOCUMENT = [
    positive_data_acceptance,  # names, paths and digests have rules beyond JSON Schema; breaking them is a 400
    negative_data_rejection,  # unknown query parameters are ignored, as HTTP caches and proxies add some
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    home: Path = tmp_path_factory.mktemp("fuzzed")
    settings = Settings(home=home, storage_url="memory://", max_watch_s=0, max_stream_s=0, webhook_poll_s=0)
    database = Database(settings.database_url)
    migrate.upgrade(database)
    database.close()
    with pytest.MonkeyPatch.context() as patch:
        # Generated host names are nobody's business but ours.
        patch.setattr(target, "resolve_by_system", lambda _host, _port: ["1.1.1.1"])
        app = create_app(settings)
    with TestClient(app, headers=ADMIN) as api:
        api.post("/api/v1/webhooks", json={"url": "https://hooks.example.com/"})
        publish(api, "fraud", {"m": b"x"})
        publish(api, "fraud", {"m": b"y"})
        promote(api, "fraud", 1)
        yield app


@pytest.fixture(scope="module")
def document(fuzzed: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", fuzzed)


# schemathesis' own parametrisation does not run under this pytest; its strategies do.
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_operation_keeps_its_promises(document: Any, mode: schemathesis.GenerationMode) -> None:
    operations = [result.ok() for result in document.get_all_operations()]
    for operation in operations:
        try:
            strategy = operation.as_strategy(generation_mode=mode)

            @fuzzing(
                max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
            )
            @given(case=strategy)
            def keeps_its_promises(case: schemathesis.Case) -> None:
                case.call_and_validate(headers=ADMIN, excluded_checks=STRICTER_THAN_THE_DOCUMENT)

            keeps_its_promises()
        except Unsatisfiable:  # an operation without input has no invalid input
            assert mode is schemathesis.GenerationMode.NEGATIVE
    assert len(operations) == 57
