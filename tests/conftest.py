"""Real servers, started once per session and shared; tests isolate themselves by database, bucket or prefix."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

# Settings, servers and clients in these tests all find this token, unless a test says otherwise.
for name in ("MODELYARD_REGISTRY_TOKEN", "MODELYARD_TOKEN"):
    os.environ[name] = "the-token-of-an-administrator"
os.environ["MODELYARD_REGISTRY_SECRET_KEY"] = "the-key-of-every-registry-in-these-tests"

# How long an example takes, or making one, is the machine's affair.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")

pytest_plugins = [
    "tests.servers.s3",
    "tests.servers.postgres",
    "tests.servers.registry",
    "tests.servers.app",
    "tests.servers.issuer",
    "tests.servers.canaille",
]

STRESS = Path(__file__).parent / "reliability"


def pytest_configure() -> None:
    """Let children hear Ctrl-C: a shell that starts the suite in the background lets it, and them, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Count coverage for nothing that other tests count: what runs thousands of times, and the second database.

    Tracing which lines run nearly doubles the time of a test. pytest-cov's own marker does not hold in the workers of xdist,
    nor in threads that fixtures start.
    """
    if STRESS not in item.path.parents and "postgresql" not in item.name:
        return (yield)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]  # as sys.settrace, it takes None for "nothing"
    try:
        return (yield)
    finally:
        sys.settrace(here)
        threading.settrace(in_threads)  # type: ignore[arg-type]  # what gettrace gave
