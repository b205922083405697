"""Promotion requests: look, comment, approve, reject, withdraw. Promoting makes them, where policy says so."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints

from registry import approve, requests
from registry.domain import MAX_NUMBER
from registry.http import schemas
from registry.http.deps import Db, Promoter, Reader
from registry.http.models import After, Limit
from registry.http.strict import StrictRoute
from registry.pages import Page

router = APIRouter(prefix="/api/v1/models/{model}/requests", tags=["governance"], route_class=StrictRoute)

RequestNumber = Annotated[int, Path(ge=1, le=MAX_NUMBER)]
State = Literal["open", "done", "rejected", "withdrawn", "expired", "outdated", "failed"]


class Remark(schemas.Request):
    text: schemas.Text = ""


class Comment(schemas.Request):
    text: Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


class Approval(Remark):
    """With `fact_revision`: only while what is said about the version is what was looked at."""

    fact_revision: Annotated[int | None, Field(ge=0, le=MAX_NUMBER, strict=True)] = None


class Entry(schemas.Answer):
    """Something said about a request, and about which content and facts of the version."""

    kind: Literal[
        "asked", "commented", "approved", "rejected", "withdrawn", "expired", "outdated", "failed", "done"
    ]
    author: str
    text: str
    digest: str
    fact_revision: int
    at: schemas.Time


class PromotionRequest(schemas.Answer):
    """A promotion that was asked for: of version `number` to `to`, while the pointer is at `generation`.

    `approved_by`: whose approvals count for the version as it is now.
    """

    model: str
    id: int
    number: int
    to: str
    pointer: str | None
    generation: int
    reason: str
    at: schemas.Time | None
    expires_at: schemas.Time
    requested_at: schemas.Time
    requested_by: str
    state: State
    closed_at: schemas.Time | None
    approved_by: list[str]
    entries: list[Entry]


class RequestPage(schemas.Answer):
    items: list[PromotionRequest]
    next: str | None


@router.get("", response_model=RequestPage)
def list_requests(
    model: str,
    database: Db,
    caller: Reader,
    state: Annotated[Literal["open"] | None, Query(description="only those that nobody has closed")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Page[requests.Request]:
    """The promotion requests of a model, newest first."""
    with database.read() as session:
        still_open = state is not None
        return requests.requests(session, caller, model, still_open=still_open, limit=limit, after=after)


@router.get("/{request}", response_model=PromotionRequest)
def get_request(model: str, request: RequestNumber, database: Db, caller: Reader) -> requests.Request:
    """One promotion request, with all that was said about it."""
    with database.read() as session:
        return requests.request(session, caller, model, request)


@router.post("/{request}/comments", response_model=PromotionRequest)
def comment_on_request(
    model: str, request: RequestNumber, body: Comment, database: Db, caller: Promoter
) -> requests.Request:
    """Say something about an open request."""
    with database.write() as session:
        return requests.comment(session, caller, model, request, body.text)


@router.post("/{request}/approve", response_model=PromotionRequest)
def approve_request(
    model: str, request: RequestNumber, body: Approval, database: Db, caller: Promoter
) -> requests.Request:
    """Approve of what somebody else has asked for. The last approval that is needed carries it out."""
    with database.write() as session:
        revision = body.fact_revision
        return approve.approve(session, caller, model, request, text=body.text, fact_revision=revision)


@router.post("/{request}/reject", response_model=PromotionRequest)
def reject_request(
    model: str, request: RequestNumber, body: Remark, database: Db, caller: Promoter
) -> requests.Request:
    """Refuse what a request asks for."""
    with database.write() as session:
        return requests.reject(session, caller, model, request, body.text)


@router.post("/{request}/withdraw", response_model=PromotionRequest)
def withdraw_request(
    model: str, request: RequestNumber, body: Remark, database: Db, caller: Promoter
) -> requests.Request:
    """Take back what you have asked for."""
    with database.write() as session:
        return requests.withdraw(session, caller, model, request, body.text)
