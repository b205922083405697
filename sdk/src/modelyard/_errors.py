"""Everything that Modelyard raises on purpose.

ModelyardError                  catch this one to catch all
├── ApiError                    the registry refused; has code, status, detail, data
│   ├── NotFound                404: no such model, version or pointer
│   ├── Conflict                409: somebody was faster, or there is nothing to roll back
│   ├── InvalidRequest          400, 411, 413, 422: the request itself is at fault
│   ├── Unauthorized            401: no token, or a wrong one
│   └── Forbidden               403: seen, but without the right to do it
├── ConnectionFailed            no answer from the registry or the object store
├── UnexpectedAnswer            an answer that is not the registry's protocol
├── IntegrityError              bytes are not those that their digest promises
├── InvalidArchive              a file or directory that is no version to import
├── NotCached                   offline, and the cache does not have it all; `files` tells what is missing
├── InvalidReference            not model, model/3 or model@pointer
├── InvalidPath                 a file that cannot be part of a version, or a destination that cannot be used
├── ConfigurationError          URL, token, config.json or local.json cannot be used
└── CaptureError                an estimator or its example cannot be captured
    ├── MissingDependency       (also an ImportError) pip install "modelyard[sklearn]"
    └── UnsupportedModel        (also a TypeError) neither a path nor a scikit-learn estimator

CaptureWarning                  the version was registered, but with less than it could have had
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard._types import File


class ModelyardError(Exception):
    """Base of all errors of this package. The message says what was expected and what to do next."""

    code = "error"


class ApiError(ModelyardError):
    """The registry refused a request.

    `code` is stable snake_case, made for programs; `detail` is a sentence, made for people; `status` is the HTTP
    status; `data` holds what else the answer said, such as `generation` and `number` of a generation_conflict, or the
    `retry_after_s` of too_many_requests.
    """

    def __init__(self, code: str, status: int, detail: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, status, detail, data)
        self.code = code
        self.status = status
        self.detail = detail
        self.data = dict(data or {})

    def __str__(self) -> str:
        # When the server itself failed, this id leads to the reason in its log.
        where = (
            f", request {self.data['request_id']}" if self.status >= 500 and "request_id" in self.data else ""
        )
        return f"{self.detail} ({self.code}{where})"


class NotFound(ApiError):
    """No such model, version or pointer, or it is not yours to see."""


class Conflict(ApiError):
    """The state of the registry does not allow it now."""


class InvalidRequest(ApiError):
    """The registry cannot make sense of the request."""


class Unauthorized(ApiError):
    """The registry wants another token."""


class Forbidden(ApiError):
    """The registry knows us, but we may not do that. What we may not even read is NotFound."""


class ConnectionFailed(ModelyardError):
    """No answer; the message names the address and what to try.

    `arrived` is False when the request certainly did not arrive, `timed_out` True when the wait has cost its time.
    """

    code = "connection_failed"

    def __init__(self, message: str, *, arrived: bool = True, timed_out: bool = False) -> None:
        super().__init__(message)
        self.arrived = arrived
        self.timed_out = timed_out


class UnexpectedAnswer(ModelyardError):
    """Something answered, but not with the registry's protocol: a proxy's page, or another service."""

    code = "unexpected_answer"


class IntegrityError(ModelyardError):
    """Bytes that are not those that their digest promises. Nothing of them was kept."""

    code = "integrity_error"


class InvalidArchive(ModelyardError):
    """Not an archive that `export` makes, nor another model in the shape of CNCF ModelPack with raw layers."""

    code = "invalid_archive"


class NotCached(ModelyardError):
    """The cache does not have all of a version, and the registry was not to be asked.

    `files` are those whose bytes are missing or damaged; empty when not even the list of files is known.
    """

    code = "not_cached"

    def __init__(self, message: str, files: Iterable["File"] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


class InvalidReference(ModelyardError):
    """Not `model`, `model/3` or `model@pointer`."""

    code = "invalid_reference"


class InvalidPath(ModelyardError):
    """A file that cannot be part of a version, or a destination that cannot be used."""

    code = "invalid_path"


class ConfigurationError(ModelyardError):
    """URL, token, config.json or local.json cannot be used."""

    code = "invalid_configuration"


class CaptureError(ModelyardError):
    """An estimator, or its example, cannot be captured."""

    code = "capture_failed"


class MissingDependency(CaptureError, ImportError):
    """Capturing an estimator needs packages that are not installed."""

    code = "missing_dependency"


class UnsupportedModel(CaptureError, TypeError):
    """Neither a path nor a scikit-learn estimator."""

    code = "unsupported_model"


class CaptureWarning(UserWarning):
    """The version was registered, but with less than it could have had. The message says what is lost, and why."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    411: InvalidRequest,
    413: InvalidRequest,
    422: InvalidRequest,
}


def api_error(code: str, status: int, detail: str, data: Mapping[str, Any] | None = None) -> ApiError:
    """The ApiError of the class that belongs to `status`."""
    return _BY_STATUS.get(status, ApiError)(code, status, detail, data)
