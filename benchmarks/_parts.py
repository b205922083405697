"""What is measured: each function runs its rounds against the servers and returns rows.

transfers   one large file: ours, boto3, MLflow; up, down, and from the cache
folder      1,000 small files: ours, MLflow
second      5 % of the file changed, then 5 % appended: what the second version costs
memory      peak of the SDK, and of the registry, for a small and a large file
"""

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import modelyard

from benchmarks import _data, _memory
from benchmarks._report import Row, compare, inform, within
from benchmarks._stack import Ours, Servers, new_registry, peers

MIB = 1 << 20
WARM_UP = MIB
SDK_MEMORY = 128 * MIB
SECOND_BYTES, SECOND_TIME = 0.10, 0.25

Times = dict[str, list[float]]


class Contender(Protocol):
    """Whoever can upload and download: seconds, and what the download needs to know."""

    @property
    def name(self) -> str: ...
    def upload(self, path: Path) -> tuple[float, Any]: ...
    def download(self, what: Any, dest: Path) -> float: ...


def transfers(on: Servers, size: int, rounds: int) -> dict[str, list[Row]]:
    """Rows of the parts "upload" and "download"."""
    times: Times = defaultdict(list)
    for number in range(rounds):
        with new_registry(on) as ours, peers(on) as others:
            contenders = _in_turn([ours, *others], number)
            _warm_up(on, contenders)
            path = _data.random_file(on.home / "weights.bin", size)
            version = _race(on, contenders, path, times, "large")
            _pull_twice(on, ours, version, times)
    up, down = "upload large ", "download large "
    return {
        "upload": [
            compare("upload_vs_boto3", "s", times[up + "ours"], times[up + "boto3"], 1.0),
            compare("upload_vs_mlflow", "s", times[up + "ours"], times[up + "mlflow"], 3.0),
            inform("upload_then_verified_after", "s", times["verified large"]),
        ],
        "download": [
            compare("download_vs_boto3", "s", times[down + "ours"], times[down + "boto3"], 1.0),
            compare("download_vs_mlflow", "s", times[down + "ours"], times[down + "mlflow"], 4.0),
            inform("pull_into_cache", "s", times["first pull"]),
            inform("pull_again", "s", times["second pull"]),
            inform("pull_again_fetched", "bytes", times["second pull bytes"]),
        ],
    }


def folder(on: Servers, _size: int, rounds: int) -> dict[str, list[Row]]:
    """Rows of the part "files"."""
    times: Times = defaultdict(list)
    for number in range(rounds):
        with new_registry(on) as ours, peers(on) as (_, mlflow):
            contenders = _in_turn([ours, mlflow], number)
            _warm_up(on, contenders)
            _race(on, contenders, _data.random_folder(on.home / "parts"), times, "files")
    up, down = "upload files ", "download files "
    return {
        "files": [
            compare("files_1000_upload_vs_mlflow", "s", times[up + "ours"], times[up + "mlflow"], 5.0),
            compare("files_1000_download_vs_mlflow", "s", times[down + "ours"], times[down + "mlflow"]),
            inform("files_1000_verified_after", "s", times["verified files"]),
        ]
    }


def second(on: Servers, size: int, rounds: int) -> dict[str, list[Row]]:
    """Rows of the part "second"."""
    found: Times = defaultdict(list)
    for number in range(rounds):
        with new_registry(on) as ours:
            _warm_up(on, [ours])
            path = _data.random_file(on.home / "weights.bin", size)
            first = _next_version(on, ours, path)
            found["verified"].append(first["verified"])
            for name, edit in (("changed", _data.change), ("appended", _data.append)):
                edit(path)
                then = _next_version(on, ours, path)
                found[f"{name} time"].append(then["seconds"] / first["seconds"])
                # what the client counts as sent, or what the bucket has grown by, whichever is more
                share = max(then["sent"], then["stored"]) / path.stat().st_size
                found[f"{name} share"].append(share)
                found[f"{name} sent"].append(then["sent"] / MIB)
                found[f"{name} stored"].append(then["stored"] / MIB)
            path.unlink()
        _progress(f"second version, round {number + 1}: {_latest(found)}")
    return {"second": [row for name in ("changed", "appended") for row in _second_rows(name, found)]}


def memory(on: Servers, size: int, rounds: int) -> dict[str, list[Row]]:
    """Rows of the part "memory"."""
    small = min(64 * MIB, size // 16)
    found: Times = defaultdict(list)
    for number in range(rounds):
        for name, length in (("small", small), ("large", size)):
            with new_registry(on) as ours:
                _warm_up(on, [ours])
                for what, growth in _peaks(on, ours, length).items():
                    found[f"{what} {name}"].append(growth / MIB)
        _progress(f"memory, round {number + 1}: {_latest(found)}")
    return {
        "memory": [
            within("sdk_memory_register", "MiB", found["register large"], SDK_MEMORY / MIB),
            within("sdk_memory_download", "MiB", found["download large"], SDK_MEMORY / MIB),
            inform("sdk_memory_register_small", "MiB", found["register small"]),
            inform("sdk_memory_download_small", "MiB", found["download small"]),
            inform("registry_memory_large", "MiB", found["registry large"]),
            inform("registry_memory_small", "MiB", found["registry small"]),
        ]
    }


def _in_turn(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """Every other round in the opposite order, so that nobody always comes after the same one."""
    return list(contenders if number % 2 == 0 else reversed(contenders))


def _warm_up(on: Servers, contenders: Iterable[Contender]) -> None:
    """Connections and imports: one small file up and down, not timed."""
    path = _data.random_file(on.home / "warm-up.bin", WARM_UP)
    for contender in contenders:
        _, what = contender.upload(path)
        contender.download(what, on.home / "fetched")
        shutil.rmtree(on.home / "fetched")
    path.unlink()


def _race(
    on: Servers, contenders: Iterable[Contender], path: Path, times: Times, what: str
) -> modelyard.Version:
    """All upload `path`, then all download it again; it is gone afterwards. Returns our version."""
    made: dict[str, Any] = {}
    for contender in contenders:
        seconds, made[contender.name] = contender.upload(path)
        times[f"upload {what} {contender.name}"].append(seconds)
        if isinstance(contender, Ours):  # the registry's check shall not fall into what is timed next
            times[f"verified {what}"].append(contender.wait_verified(made[contender.name]))
    for contender in contenders:
        dest = on.home / "fetched"
        times[f"download {what} {contender.name}"].append(contender.download(made[contender.name], dest))
        _data.require_same(path, dest if path.is_dir() else dest / path.name)
        shutil.rmtree(dest)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    _progress(f"{what}: {_latest(times)}")
    version: modelyard.Version = made["ours"]
    return version


def _pull_twice(on: Servers, ours: Ours, version: modelyard.Version, times: Times) -> None:
    """Into the cache, and again from there."""
    for name in ("first pull", "second pull"):
        seconds, fetched = ours.pull(version)
        times[name].append(seconds)
        times[f"{name} bytes"].append(fetched)
    shutil.rmtree(on.client_home)


def _next_version(on: Servers, ours: Ours, path: Path) -> dict[str, float]:
    """Register `path`: its seconds, the bytes that the client sent, the bytes that the bucket grew by."""
    before = on.stored(ours.bucket)
    seconds, version, sent = ours.upload_counting(path)
    verified = ours.wait_verified(version)
    stored = on.stored(ours.bucket) - before
    return {"seconds": seconds, "verified": verified, "sent": sent, "stored": stored}


def _second_rows(name: str, found: Times) -> list[Row]:
    return [
        within(f"second_{name}_bytes", "of the file", found[f"{name} share"], SECOND_BYTES),
        within(f"second_{name}_time", "of the first", found[f"{name} time"], SECOND_TIME),
        inform(f"second_{name}_sent", "MiB", found[f"{name} sent"]),
        inform(f"second_{name}_bucket_growth", "MiB", found[f"{name} stored"]),
    ]


def _peaks(on: Servers, ours: Ours, size: int) -> dict[str, int]:
    """Growth in bytes of a registering SDK, a downloading one, and the registry during both."""
    path = _data.random_file(on.home / "weights.bin", size)
    registry = _memory.Peak(ours.pid)
    register = _memory.of_transfer("register", ours.client.url, path)
    ours.wait_verified(next(ours.client.versions("bench")))
    path.unlink()
    download = _memory.of_transfer("download", ours.client.url, on.home / "fetched")
    shutil.rmtree(on.home / "fetched")
    return {"register": register, "download": download, "registry": registry.growth()}


def _latest(times: Times) -> str:
    return ", ".join(f"{name} {values[-1]:.3g}" for name, values in times.items())


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
