"""What can come of sending: the receiver's status, or the reason why there is none."""

from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """Why no status came."""

    REFUSED = "address_refused"
    UNRESOLVED = "name_unresolved"
    UNREACHABLE = "unreachable"
    TLS = "tls_failed"
    TIMEOUT = "timeout"
    INVALID = "invalid_answer"
    SECRET = "secret_unreadable"  # noqa: S105 - the name of a failure


class NotSent(Exception):
    """The request did not lead to a status."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt: either `status` or `failure`, and how long it took."""

    status: int | None
    failure: Failure | None
    duration_ms: int

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more, ever."""
        return self.status == 410
