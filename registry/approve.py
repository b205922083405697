"""Approving: the last approval that a request needs carries it out, in the same transaction.

    approve ──> enough?  ──no──> the request waits for others
                   └─yes─> its time come?  ──no──> the scheduler carries it out then (schedule.py)
                                └─yes─> promoted, if policy still lets it through and the pointer has not moved

Whoever has asked must still have the right to promote, and so must whoever has approved, or it does not count.
"""

import sqlalchemy as sa

from registry import decide, identify, promote, requests
from registry.access import Caller, Permission
from registry.browse import pointer_rows
from registry.database import WriteSession, utc_now
from registry.decide import Proposal
from registry.domain import Promotion
from registry.errors import Forbidden, FourEyes, VersionChanged
from registry.policy_tables import RequestRow
from registry.requests import Request
from registry.tables import ModelRow, VersionRow


def approve(
    session: WriteSession,
    caller: Caller,
    model: str,
    request_id: int,
    *,
    text: str = "",
    fact_revision: int | None = None,
) -> Request:
    """Approve of a request, for the version with its facts as they are; those with `fact_revision`, if it is given.

    Raises ModelNotFound, RequestNotFound, RequestClosed, FourEyes, NotByPolicy, VersionChanged, and, when it was the last
    approval that was needed, whatever `promote` raises: then nothing has happened.
    """
    owner, row, version = requests.locked(session, caller, model, request_id)
    if caller.name == row.requested_by:
        raise FourEyes
    if fact_revision not in (None, version.fact_revision):
        raise VersionChanged(version.fact_revision)
    proposal = _proposal(session, row, version)
    decide.may_approve(session, caller, owner, proposal)
    new = caller.name not in requests.approvers(session, row, version)
    if new:
        requests.say(session, caller, row, version, "approved", text)
    # Also when it was said before: policy may ask for fewer by now.
    if is_ready(session, caller, owner, row, version):
        carry_out(session, caller, owner, row)
    elif new:
        requests.announce(session, caller, owner, row, "request.approved")
    return requests.request(session, caller, model, request_id)


def is_ready(
    session: WriteSession, caller: Caller, model: ModelRow, request: RequestRow, version: VersionRow
) -> bool:
    """Whether it has all approvals, and its time has come."""
    if request.at is not None and request.at > session.scalars(sa.select(utc_now())).one():
        return False
    return decide.missing(session, caller, model, request, _proposal(session, request, version)) <= 0


def carry_out(session: WriteSession, caller: Caller, model: ModelRow, request: RequestRow) -> Promotion:
    """Do what a request asks for. Raises what `promote` raises, or Forbidden."""
    asker = identify.person(session, request.requested_by, caller.workspace, caller.workspace_id)
    if asker is None or not asker.permits(Permission.PROMOTE, model.name):
        raise Forbidden("Whoever has asked for this promotion has not the right to promote any more.")
    return promote.promote(
        session,
        caller,
        model.name,
        request.number,
        request.to,
        expected_generation=request.generation,
        reason=request.reason,
        request=request,
    )


def _proposal(session: WriteSession, request: RequestRow, version: VersionRow) -> Proposal:
    pointers = pointer_rows(session, version.model_id)
    return decide.propose(version, pointers, request.to, request=request)
