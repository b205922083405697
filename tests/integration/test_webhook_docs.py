"""docs/webhooks.md: its code runs, its receivers verify what the registry really sends, and its numbers are the defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry.deliveries.outcome import Failure
from registry.settings import Settings
from tests.servers.app import TOKEN, publish
from tests.servers.receiver import Receiver, receiver
from tests.servers.webhooks import Hooks, with_webhooks

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
SETUP, *RECEIVERS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_webhooks(settings)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as started:
        yield started


def test_the_page_works_from_top_to_bottom(
    app: FastAPI, api: TestClient, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_URL", "http://127.0.0.1")
    monkeypatch.setenv("MODELYARD_TOKEN", TOKEN)
    # The client that the page makes talks to the application in here.
    monkeypatch.setattr(
        httpx2, "Client", lambda base_url, headers: TestClient(app, base_url, headers=headers)
    )
    made: dict[str, Any] = {}
    exec(SETUP.replace("https://hooks.example.com/modelyard", hook.url), made)  # noqa: S102 - our own page
    publish(api, "fraud-eu")
    publish(api, "other")
    Hooks(app, api).send()
    (got,) = hook.received
    assert len(RECEIVERS) == 2
    for code in RECEIVERS:
        verified = run(code)
        event = verified(made["webhook"]["secret"], got.headers, got.body)
        assert (event["type"], event["data"]["model"]) == ("version.created", "fraud-eu")
        old = got.headers | {"webhook-timestamp": str(int(got.headers["webhook-timestamp"]) - 301)}
        forged = got.headers | {"webhook-signature": "v1,AAAA"}
        for headers, body in ((old, got.body), (forged, got.body), (got.headers, got.body + b" ")):
            with pytest.raises(Exception, match=r"(?i)too old|not signed|no matching"):
                verified(made["webhook"]["secret"], headers, body)


def run(code: str) -> Any:
    made: dict[str, Any] = {}
    exec(code, made)  # noqa: S102 - our own page
    return made["verified"]


def test_failures_and_defaults_are_those_of_the_code() -> None:
    assert {each for each in Failure if f"`{each}`" not in PAGE} == set()
    fields = Settings.model_fields
    defaults = {
        name: fields[f"webhook_{name}_s"].default
        for name in ("retry_first", "retry_cap", "give_up", "deactivate")
    }
    assert defaults == {"retry_first": 10, "retry_cap": 3600, "give_up": 86400, "deactivate": 3 * 86400}
    assert "within 10 seconds, then within 20, 40, … up to an hour" in PAGE
    assert "nothing got through for three days" in PAGE
