"""Freezing a model: no pointer of it moves, whatever policy says, until it is thawed. The database refuses it as well."""

from registry import audit, browse, events
from registry.access import Caller
from registry.database import WriteSession


def freeze(session: WriteSession, caller: Caller, model: str, *, reason: str) -> browse.Model:
    """Freeze a model, saying why. Raises ModelNotFound."""
    return _set(session, caller, model, reason, {"reason": reason})


def thaw(session: WriteSession, caller: Caller, model: str) -> browse.Model:
    """Let its pointers move again. Raises ModelNotFound."""
    return _set(session, caller, model, None, {})


def _set(
    session: WriteSession, caller: Caller, model: str, reason: str | None, told: dict[str, str]
) -> browse.Model:
    row = browse.model_row(session, caller, model, lock=True)
    if row.frozen != reason:
        row.frozen = reason
        session.flush()
        kind = "model.frozen" if reason is not None else "model.thawed"
        events.record(session, row, kind, {**told, "actor": caller.name})
        audit.record(session, caller, kind, f"models/{model}", told)
    return browse.model(session, caller, model)
