"""Whom an identity provider has sent: who that is here, and in which groups.

People are recognised by issuer and subject, never by a name: names can be given to somebody else, and chosen.
"""

import hashlib
import re
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from registry import accounts, audit
from registry.access import Caller
from registry.access_tables import PrincipalRow
from registry.database import WriteSession
from registry.errors import InvalidName, NameTaken, UnknownIdentity
from registry.oidc import Identity
from registry.settings import Issuer

MAX_GROUPS = 200
_LONGEST = 128
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


def enter(session: WriteSession, stranger: Caller, issuer: Issuer, identity: Identity) -> PrincipalRow:
    """The person; made now, if they are new and may be. Raises UnknownIdentity."""
    person = accounts.by_identity(session, identity.issuer, identity.subject)
    changed: dict[str, Any] = {}
    if new := person is None:
        if not issuer.create_people:
            raise UnknownIdentity
        person = _create(session, issuer, identity)
        changed = {"kind": "person", "issuer": identity.issuer, "subject": identity.subject}
    if issuer.groups_claim is not None:
        groups = accounts.set_groups(session, person, identity.issuer, groups_of(issuer, identity))
        changed |= {way: names for way, names in zip(("joined", "left"), groups, strict=True) if names}
    if changed:
        action = "principal.created" if new else "principal.groups_changed"
        actor = replace(stranger, name=person.name)
        audit.record(session, actor, action, f"principals/{person.name}", changed, workspace="")
    return person


def _create(session: WriteSession, issuer: Issuer, identity: Identity) -> PrincipalRow:
    # Somebody else may have the name already, and must not be taken for this person.
    mark = hashlib.sha256(f"{identity.issuer}\0{identity.subject}".encode()).hexdigest()[:12]
    wished = name_of(issuer, identity)
    for name in filter(None, (wished, f"{wished[:100] or 'person'}-{mark}")):
        try:
            return accounts.create_person(session, name, identity.issuer, identity.subject)
        except (NameTaken, InvalidName):
            continue
    # Two logins of one person at the same moment: the other one has made them.
    person = accounts.by_identity(session, identity.issuer, identity.subject)
    if person is None:
        raise NameTaken("All names for this person are taken.")
    return person


def name_of(issuer: Issuer, identity: Identity) -> str:
    """What this person may be called here; empty if the claim holds nothing that a name can be made of."""
    said = identity.claims.get(issuer.name_claim)
    local = said.partition("@")[0] if isinstance(said, str) else ""
    return _NOT_IN_NAMES.sub("-", local[:_LONGEST]).strip("._-")


def groups_of(issuer: Issuer, identity: Identity) -> AbstractSet[str]:
    """The groups that this registry shall know of."""
    said = identity.claims.get(issuer.groups_claim or "")
    listed = said if isinstance(said, list) else [said]
    names = {each for each in listed[:MAX_GROUPS] if isinstance(each, str) and each.isprintable()}
    if issuer.groups:
        return frozenset(issuer.groups[each] for each in names if each in issuer.groups)
    return frozenset(names)
