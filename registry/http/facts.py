"""Facts of a version: look, change; its model card; its lineage."""

from fastapi import APIRouter

from registry import amend, browse, card, facts, lineage
from registry.http import fact_schemas as schemas
from registry.http.deps import Db, Publisher, Reader
from registry.http.strict import StrictRoute
from registry.http.versions import VersionNumber

router = APIRouter(prefix="/api/v1/models/{model}/versions/{number}", tags=["facts"], route_class=StrictRoute)


@router.get("/facts", response_model=schemas.Facts)
def get_facts(model: str, number: VersionNumber, database: Db, caller: Reader) -> facts.Facts:
    """Tags, metadata, parameters, and metrics of every dataset and slice."""
    with database.read() as session:
        owner = browse.model_row(session, caller, model)
        return facts.facts_of(session, browse.version_row(session, owner, number))


@router.patch("/facts", response_model=schemas.Facts)
def change_facts(
    model: str, number: VersionNumber, body: schemas.FactsChange, database: Db, caller: Publisher
) -> facts.Facts:
    """Set or remove facts. Approvals that were given before are void if anything changes."""
    with database.write() as session:
        wanted = body.wanted()
        return amend.change(session, caller, model, number, wanted, expected_revision=body.expected_revision)


@router.get("/card", response_model=schemas.Card)
def get_card(model: str, number: VersionNumber, database: Db, caller: Reader) -> card.Card:
    """The model card. A version without one has an empty card."""
    with database.read() as session:
        return card.card(session, caller, model, number)


@router.put("/card", response_model=schemas.Card)
def put_card(
    model: str, number: VersionNumber, body: schemas.CardPut, database: Db, caller: Publisher
) -> card.Card:
    """Give the version this model card."""
    with database.write() as session:
        return card.put(session, caller, model, number, body.text, expected_revision=body.expected_revision)


@router.get("/lineage", response_model=schemas.Lineage)
def get_lineage(model: str, number: VersionNumber, database: Db, caller: Reader) -> lineage.Lineage:
    """What the version was made from, and what was made from it."""
    with database.read() as session:
        return lineage.lineage(session, caller, model, number)


@router.put("/lineage", response_model=schemas.Lineage)
def put_lineage(
    model: str, number: VersionNumber, body: schemas.LineagePut, database: Db, caller: Publisher
) -> lineage.Lineage:
    """Say what the version was made from. Parents that one may not read stay as they are."""
    with database.write() as session:
        origin = body.origin()
        return lineage.put(session, caller, model, number, origin, expected_revision=body.expected_revision)
