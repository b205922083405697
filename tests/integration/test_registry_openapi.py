"""The OpenAPI document against the application: generated requests, valid and not, to every operation.

No answer is a 5xx, and every answer is one that the document promises.
"""

import contextlib
from collections.abc import Callable, Iterator
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
STRANGERS_EXAMPLES = 3
REFUSALS = {(401, "unauthorized"), (404, "not_found"), (405, "method_not_allowed")}
STRICTER_THAN_THE_DOCUMENT = [
    positive_data_acceptance,  # names, paths and digests have rules beyond JSON Schema; breaking them is a 400
    negative_data_rejection,  # unknown query parameters are ignored, as HTTP caches and proxies add some
]

UNLESS_POSITIVE = {  # an operation without input has no invalid input
    schemathesis.GenerationMode.POSITIVE: (),
    schemathesis.GenerationMode.NEGATIVE: (Unsatisfiable,),
}


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
    def keeps_its_promises(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=ADMIN, excluded_checks=STRICTER_THAN_THE_DOCUMENT)

    assert fuzz(document, mode, EXAMPLES, keeps_its_promises) == 92


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_strangers_get_nothing_and_break_nothing(document: Any, mode: schemathesis.GenerationMode) -> None:
    def keeps_its_promises(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(excluded_checks=STRICTER_THAN_THE_DOCUMENT)
        if "security" in case.operation.definition.raw:  # some values make a path of which there is none
            assert (answer.status_code, answer.json()["code"]) in REFUSALS

    fuzz(document, mode, STRANGERS_EXAMPLES, keeps_its_promises)


def fuzz(
    document: Any,
    mode: schemathesis.GenerationMode,
    examples: int,
    keeps_its_promises: Callable[[schemathesis.Case], None],
) -> int:
    """Call it with generated requests to every operation; returns how many operations there are."""
    operations = [result.ok() for result in document.get_all_operations()]
    for operation in operations:
        limits = fuzzing(
            max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        with contextlib.suppress(*UNLESS_POSITIVE[mode]):
            limits(given(case=operation.as_strategy(generation_mode=mode))(keeps_its_promises))()
    return len(operations)
