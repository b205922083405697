"""What goes wrong in the adapter. No HTTP in here: a protocol maps each class to its own status.

AdapterError
├── BadInput             the request cannot be understood, or does not fit the model's signature
│   ├── TooLarge         more bytes than the adapter takes
│   └── UnsupportedContent   a content type or encoding that it does not read
├── Unknown              no such model, or not the version that is being served
├── NotReady             the model is known, but no version of it has been loaded yet
├── Overloaded           the queue is full
├── ModelFailed          the model raised, or its answer does not fit its signature
├── CandidateRejected    a version that must not be served
├── LoaderBroken         the loader itself failed; it says nothing about the candidate
└── UnsafeDirectory      the cache directory could be somebody else's
"""


class AdapterError(Exception):
    """Base of all; the message is written for whoever reads the answer or the status page."""


class BadInput(AdapterError):
    """The caller's mistake. The message says what was expected."""


class TooLarge(BadInput):
    """The body, as sent or once decompressed, is larger than the adapter takes."""


class UnsupportedContent(BadInput):
    """The body is in a content type or encoding that the adapter does not read."""


class Unknown(AdapterError):
    """No such model, or not the version that is being served."""


class NotReady(AdapterError):
    """The model is known, but there is no version of it to answer with."""


class Overloaded(AdapterError):
    """As many requests are waiting as may wait; try again in `retry_after_s` seconds."""

    retry_after_s = 1


class ModelFailed(AdapterError):
    """The model raised, or answered something that is not what its signature promises."""


class CandidateRejected(AdapterError):
    """A version that must not be served; `phase` is where that was found: fetch, select, load or example."""

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase


class LoaderBroken(AdapterError):
    """The loader could not do its work (no process, no memory); the same candidate may be tried again."""


class UnsafeDirectory(AdapterError):
    """The cache directory is a link, or others may write to it, so what is in it cannot be trusted."""
