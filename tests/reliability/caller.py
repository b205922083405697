"""A caller that does not give up, as the SDK does not: repeats what failed for a moment, starts over when bytes are gone.

It allows no status from 500 on but 503 and 507. A `Line` may lose answers after the request took effect.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from tests.servers.app import digest_of, listing

ATTEMPTS = 30
START_OVER = {"upload_incomplete", "upload_not_found", "upload_expired", "digest_mismatch"}
UNAVAILABLE = (503, 507)


class AnswerLost(Exception):
    """The request took effect, and nobody heard of it."""


class Violation(AssertionError):
    """Something that the registry promises never to do."""


class StartOver(Exception):
    """What the upload counted on is not there any more."""


class Caller:
    """Talks to an API (`api.request(method, path, …)`); `on_failure` hears of each attempt that failed."""

    def __init__(self, api: Any, *, on_failure: Callable[[], None] = lambda: None) -> None:
        self._api = api
        self._on_failure = on_failure

    def call(
        self, method: str, path: str, *, allowed: Sequence[int] = (200, 201, 204), **request: Any
    ) -> Any:
        """The answer, once there is one. Raises Violation, or StartOver."""
        for _ in range(ATTEMPTS):
            try:
                answer = self._api.request(method, f"/api/v1{path}", **request)
            except AnswerLost:
                continue
            if answer.status_code in allowed:
                return answer
            if answer.status_code in UNAVAILABLE:
                self._on_failure()
                continue
            if _code(answer) in START_OVER:
                raise StartOver(answer.text)
            raise Violation(f"{method} {path}: {answer.status_code} {answer.text}")
        raise Violation(f"{method} {path} did not succeed within {ATTEMPTS} attempts")

    def publish(self, model: str, files: dict[str, bytes], *, packed: bool = False) -> int:
        """The number of a new version with these files: one object each, or all in one pack."""
        for _ in range(ATTEMPTS):
            try:
                return (self._packed if packed else self._whole)(model, files)
            except StartOver:
                self._on_failure()
        raise Violation(f"publishing did not succeed within {ATTEMPTS} attempts")

    def begin(self, model: str, files: dict[str, bytes], *, packed: bool = False) -> dict[str, Any]:
        body = {"files": listing(files), "packed": packed}
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return dict(self.call("POST", f"/models/{model}/uploads", json=body, headers=key).json())

    def send(self, needs: Sequence[dict[str, Any]], contents: Sequence[bytes]) -> None:
        by_digest = {digest_of(content): content for content in contents}
        for need in needs:
            self.call("PUT", need["url"].removeprefix("/api/v1"), content=by_digest[need["digest"]])

    def commit(self, model: str, upload: str, files: list[dict[str, Any]], **more: Any) -> int:
        body = {"upload": upload, "files": files, "format": "files", **more}
        return int(self.call("POST", f"/models/{model}/versions", json=body).json()["number"])

    def _whole(self, model: str, files: dict[str, bytes]) -> int:
        upload = self.begin(model, files)
        self.send(upload["needs"], list(files.values()))
        return self.commit(model, upload["id"], listing(files))

    def _packed(self, model: str, files: dict[str, bytes]) -> int:
        upload = self.begin(model, files, packed=True)
        pack = b"".join(files.values())
        blob = {"digest": digest_of(pack), "size": len(pack)}
        answer = self.call("POST", f"/uploads/{upload['id']}/blobs", json={"blobs": [blob]})
        self.send(answer.json()["needs"], [pack])
        placed, offset = listing(files), 0
        for file in placed:
            file["segments"] = [[0, offset, file["size"]]]
            offset += file["size"]
        return self.commit(model, upload["id"], placed, blobs=[blob["digest"]])

    def promote(self, model: str, number: int, expected: int) -> None:
        """Move production from generation `expected` on. If an answer was lost, the refusal tells that it happened."""
        body = {"number": number, "to": "production", "expected_generation": expected}
        answer = self.call("POST", f"/models/{model}/promotions", json=body, allowed=(200, 409))
        if answer.status_code == 409:
            told = answer.json()
            if (told["code"], told["generation"], told["number"]) != (
                "generation_conflict",
                expected + 1,
                number,
            ):
                raise Violation(f"nobody else promotes here: {told}")

    def delete(self, model: str, number: int) -> None:
        self.call("DELETE", f"/models/{model}/versions/{number}")

    def restore(self, model: str, number: int) -> None:
        self.call("POST", f"/models/{model}/versions/{number}/restore")

    def download(self, model: str, number: int, files: dict[str, bytes]) -> None:
        """Read every file. Bytes that end early are read again, as by the SDK; others are a Violation."""
        for path, content in files.items():
            for _ in range(ATTEMPTS):
                got = self.call("GET", f"/models/{model}/versions/{number}/files/{path}").content
                if got == content:
                    break
                if not content.startswith(got):
                    raise Violation(f"{model}/{number}:{path} has other bytes")
                self._on_failure()
            else:
                raise Violation(f"{model}/{number}:{path} cannot be read")

    def numbers(self, model: str, *, deleted: bool = False) -> list[int]:
        query = f"?limit=1000&deleted={str(deleted).lower()}"
        items = self.call("GET", f"/models/{model}/versions{query}").json()["items"]
        return sorted(item["number"] for item in items)


def _code(answer: Any) -> str:
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return ""
