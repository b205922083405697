"""What a registry answers: a status, the code of a refusal, and what of the body matters."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`said`: what the body has to say, at least. `None` in a code: it was done."""

    status: int = 200
    code: str | None = None
    said: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """Nothing has happened."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.answer = Answer(status, code)
