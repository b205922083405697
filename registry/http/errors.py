"""One shape for every error: problem+json (RFC 9457) with a stable `code`. One table maps error classes to statuses.

Nothing of the request is echoed, no path, SQL or host is told; the request id leads from the answer to the log.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from registry import errors

log = logging.getLogger("modelyard.registry")

STATUSES: Mapping[type[errors.RegistryError], int] = {
    errors.InvalidInput: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.IdempotencyMismatch: 422,
    errors.Gone: 410,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
}

_CODES = {
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    411: "length_required",
    413: "body_too_large",
}


class Problem(JSONResponse):
    media_type = "application/problem+json"


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **data: Any,
) -> Problem:
    """The answer for one error. `data` stands beside the standard members."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request.scope.get("request_id"),
        **data,
    }
    return Problem(body, status_code=status, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Register the handlers for everything that can be raised."""
    app.add_exception_handler(errors.RegistryError, _registry_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: errors.RegistryError) -> int:
    """The status of the nearest class in STATUSES."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def _registry_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, errors.RegistryError)  # noqa: S101 - Starlette types handlers by Exception only
    status = status_of(error)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    if isinstance(error, errors.TooManyRequests):
        headers = {"Retry-After": str(error.retry_after_s)}
    if status == 503:
        log.error("request %s: %s", request.scope.get("request_id"), error, exc_info=error)
    return problem(request, status, error.code, str(error), headers, **error.data)


def _validation_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    found = [
        # Location and rule only: the rejected value may be a secret, or not encodable.
        {
            "location": ".".join(_printable(part) for part in e["loc"]),
            "message": e["msg"] if _is_ours(e) else e["type"],
        }
        for e in error.errors()[:20]
    ]
    if any(e["type"] == "json_invalid" for e in error.errors()):
        return problem(request, 400, "invalid_json", "The body is not valid JSON.", errors=found)
    detail = "The request does not fit the API. See `errors`, and /openapi.json."
    return problem(request, 422, "invalid_request", detail, errors=found)


def _is_ours(error: Mapping[str, Any]) -> bool:
    # Pydantic's own messages are made of rules; messages of a value_error may contain what was given.
    return bool(error["type"] != "value_error")


def _printable(part: object) -> str:
    text = str(part)
    return text if len(text) <= 64 and text.isascii() and text.isprintable() else "?"


def _http_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    code = _CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "unavailable")
    return problem(request, error.status_code, code, str(error.detail), error.headers)


def _unexpected(request: Request, error: Exception) -> Problem:
    log.error("request %s failed", request.scope.get("request_id"), exc_info=error)
    detail = "The registry failed. Its log says why, under this request id."
    return problem(request, 500, "internal_error", detail)
