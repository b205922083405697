"""Real servers, started once per session and shared; tests isolate themselves by database, bucket or prefix."""

import signal

pytest_plugins = ["tests.servers.s3", "tests.servers.postgres", "tests.servers.registry", "tests.servers.app"]


def pytest_configure() -> None:
    """Let children hear Ctrl-C: a shell that starts the suite in the background lets it, and them, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
