"""The model card of a version: Markdown, the sections that it has, and HTML that is safe to show.

Markdown is rendered without raw HTML and without images: what comes out consists of nothing but the tags that the renderer
makes, and of links to http, https, mailto and the page itself. So there is nothing to sanitise afterwards, and nothing that
a filter could miss.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from registry import amend, browse
from registry.access import Caller
from registry.database import ReadSession, WriteSession
from registry.domain import sha256
from registry.errors import InvalidFacts
from registry.facts import card_of
from registry.facts_tables import MAX_CARD_BYTES, CardRow

SCHEMES = ("http", "https", "mailto", "")


@dataclass(frozen=True, slots=True)
class Card:
    """A model card; `text` is "" where there is none. `revision` is that of the version's facts."""

    revision: int
    text: str
    sections: Sequence[str]
    html: str


def card(session: ReadSession | WriteSession, caller: Caller, model: str, number: int) -> Card:
    """Raises ModelNotFound, VersionNotFound or VersionDeleted."""
    owner = browse.model_row(session, caller, model)
    version = browse.version_row(session, owner, number)
    text = card_of(session, version)
    return Card(version.fact_revision, text, sections_of(text), html_of(text))


def put(
    session: WriteSession,
    caller: Caller,
    model: str,
    number: int,
    text: str,
    *,
    expected_revision: int | None = None,
) -> Card:
    """Give a version this card, or with "" none. Raises as `amend.change` does."""
    if len(text.encode()) > MAX_CARD_BYTES:
        raise InvalidFacts(f"A model card has at most {MAX_CARD_BYTES} bytes.")
    owner, version = amend.locked(session, caller, model, number, expected_revision)
    row = session.get(CardRow, (version.model_id, version.number))
    before = row.text if row is not None else ""
    if text != before:
        if row is None:
            session.add(CardRow(model_id=version.model_id, number=version.number, text=text))
        elif text:
            row.text = text
        else:
            session.delete(row)
        told = {"card": {"from": _digest(before), "to": _digest(text)}}
        amend.amended(session, caller, owner, version, ["card"], told)
    return card(session, caller, model, number)


def sections_of(text: str) -> list[str]:
    """The headings of a card, in order, as plain text."""
    tokens = _markdown().parse(text)
    return [
        _plain(inline) for opening, inline in itertools.pairwise(tokens) if opening.type == "heading_open"
    ]


def has_section(text: str, heading: str) -> bool:
    """Whether a card says anything below a heading, whatever its level and case."""
    wanted, level = heading.strip().casefold(), 0
    tokens = _markdown().parse(text)
    for before, token in itertools.pairwise([*tokens[:1], *tokens]):
        if before.type == "heading_open":
            depth = int(before.tag[1:])
            level = depth if _plain(token).casefold() == wanted else 0 if depth <= level else level
        elif level and token.type in ("inline", "fence", "code_block") and token.content.strip():
            return True
    return False


def html_of(text: str) -> str:
    """A card as HTML that can be put into any page."""
    html: str = _markdown().render(text)
    return html


def _plain(inline: Token) -> str:
    shown = [each.content for each in inline.children or [] if each.type in ("text", "code_inline")]
    return "".join(shown).strip()


def _digest(text: str) -> str | None:
    return sha256(text.encode()) if text else None


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable("table")
    markdown.disable(["image", "html_block", "html_inline"])
    markdown.validateLink = _is_safe  # type: ignore[method-assign]  # how the library is told
    markdown.add_render_rule("link_open", _link)
    return markdown


def _is_safe(url: str) -> bool:
    try:
        scheme = urlsplit(url.strip()).scheme.lower()
    except ValueError:
        return False
    # Without a scheme it is a place in this page or site, unless a browser finds one that Python does not see.
    return scheme in SCHEMES and (bool(scheme) or ":" not in url.partition("/")[0])


def _link(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    html: str = renderer.renderToken(tokens, index, options, env)
    return html
