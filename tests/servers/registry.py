"""Real registries: `modelyard-registry serve` in a process of its own, on a free port."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.ports import free_port, wait_for_http, wait_until


@dataclass
class Registry:
    """One registry and its data; it can be stopped and started again at the same address."""

    home: Path
    port: int = field(default_factory=free_port)
    database_url: str = ""
    storage_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    program: str = "registry.cli"
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Registry":
        """Start, and return when it is ready."""
        environment = {
            **os.environ,
            **self.environment,
            "MODELYARD_HOME": str(self.home),
            "MODELYARD_REGISTRY_DATABASE_URL": self.database_url,
            "MODELYARD_REGISTRY_STORAGE_URL": self.storage_url,
        }
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "registry.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, "serve", "--port", str(self.port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, timeout_s=60, what="the registry to be ready")
        except TimeoutError as error:
            self.kill()
            raise AssertionError((self.home / "registry.log").read_text()) from error
        return self

    def _is_ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise TimeoutError("the registry ended by itself")
        try:
            wait_for_http(f"{self.url}/readyz", timeout_s=0)
        except TimeoutError:
            return False
        return True

    def stop(self) -> int:
        """Stop as an operator would; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """Stop without a chance to clean up."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def registry_url() -> Iterator[str]:
    """A registry on SQLite and disk that all tests share: use model names of your own."""
    with tempfile.TemporaryDirectory(prefix="modelyard-registry-") as home:
        registry = Registry(Path(home)).start()
        yield registry.url
        registry.kill()


@pytest.fixture
def start_registry(tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    """Start registries of one's own: `start_registry(database_url=…, storage_url=…)`."""
    with ExitStack() as stack:

        def start(**settings: str) -> Registry:
            registry = Registry(tmp_path / f"registry-{len(stack._exit_callbacks)}", **settings)
            stack.callback(registry.kill)
            return registry.start()

        yield start
