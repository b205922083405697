"""Upload: from files on this disk to a version in the registry.

    offer    POST /uploads        these files I have            ->  these bytes I need, and where to
    send     PUT  each blob       in parallel, straight from disk, hashed once more on the way
    commit   POST /versions       one version, complete         ->  Version

What the registry has already is not sent. If it lost something between offer and commit, or a URL expired, the offer is
made again: only what is missing then is sent. A commit whose answer was lost is repeated and gives the same version.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelyard._errors import ApiError, IntegrityError, UnexpectedAnswer
from modelyard._http import Http, retrying
from modelyard._manifest import CHUNK, locate, open_regular
from modelyard._parallel import Attempt, Meter, Progress, in_parallel
from modelyard._types import File

ROUNDS = 3
_START_OVER = {"upload_incomplete", "upload_not_found", "upload_expired", "digest_mismatch", "store_refused"}
# The server hashes, copies and syncs what it received before it answers; a slow disk does this much a second.
_SERVER_BYTES_PER_S = 20e6


def upload(
    http: Http,
    model: str,
    root: Path,
    files: Sequence[File],
    facts: dict[str, Any],
    progress: Progress | None,
) -> Any:
    """Make the collected `files` of `root` a version of `model`; returns it as the registry tells it."""
    for _ in range(ROUNDS - 1):
        try:
            return _offer_send_commit(http, model, root, files, facts, progress)
        except ApiError as error:
            if error.code not in _START_OVER:
                raise
    return _offer_send_commit(http, model, root, files, facts, progress)


def _offer_send_commit(
    http: Http,
    model: str,
    root: Path,
    files: Sequence[File],
    facts: dict[str, Any],
    progress: Progress | None,
) -> Any:
    listed = [file.to_wire() for file in files]
    base = f"/api/v1/models/{model}"
    offer = http.send("POST", f"{base}/uploads", {"files": listed}, repeatable=True)
    try:
        needs, upload_id = offer["needs"], offer["id"]
        by_digest = {file.digest: file for file in files}
        wanted = [(by_digest[need["digest"]], str(need["url"]), dict(need["headers"])) for need in needs]
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(
            "The registry's answer to an upload cannot be understood. Is it of this version?"
        ) from error
    meter = Meter(sum(file.size for file, _, _ in wanted), progress)
    in_parallel(lambda each: _send(http, root, *each, meter), wanted, meter.stop)
    return http.send(
        "POST",
        f"{base}/versions",
        {"upload": upload_id, "files": listed, **facts},
        wait_s=_server_time(sum(file.size for file in files)),
        repeatable=True,
    )


def _send(http: Http, root: Path, file: File, url: str, headers: dict[str, str], meter: Meter) -> None:
    retrying(lambda: _send_once(http, locate(root, file.path), file, url, headers, meter))


def _send_once(http: Http, source: Path, file: File, url: str, headers: dict[str, str], meter: Meter) -> None:
    attempt = Attempt(meter)
    try:
        chunks = attempt.count(_chunks(source, file))
        http.put(url, chunks, size=file.size, headers=headers, wait_s=_server_time(file.size))
    except BaseException:
        attempt.take_back()
        raise


def _chunks(source: Path, file: File) -> Iterator[bytes]:
    """The bytes of `source`. The last chunk is held back unless all are those that were announced."""
    hasher, left = hashlib.sha256(), file.size
    with open_regular(source) as stream:
        while left:
            chunk = stream.read(min(CHUNK, left))
            hasher.update(chunk)
            left -= len(chunk)
            if not chunk or (not left and hasher.hexdigest() != file.digest.removeprefix("sha256:")):
                raise _changed(file)
            if left:
                yield chunk
        if stream.read(1):
            raise _changed(file)
        if file.size:
            yield chunk


def _changed(file: File) -> IntegrityError:
    return IntegrityError(
        f"{file.path!r} changed while it was being uploaded. No version was made: publish again when nothing writes to it."
    )


def _server_time(size: int) -> float:
    return size / _SERVER_BYTES_PER_S
