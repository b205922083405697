"""These tests do the same things thousands of times: tracing which lines run would double the time that they take."""

import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Trace nothing here, for the other tests pass the same lines.

    pytest-cov's own marker does not hold in the workers of xdist, nor in threads that fixtures start.
    """
    if FOLDER not in item.path.parents:
        return (yield)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        return (yield)
    finally:
        sys.settrace(here)
        threading.settrace(in_threads)  # type: ignore[arg-type]
