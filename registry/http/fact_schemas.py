"""The shapes of facts: what is to change, lineage, cards and comparisons."""

from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
)

from registry import amend, lineage
from registry.facts_tables import MAX_CARD_BYTES
from registry.http import schemas
from registry.http.fact_values import FactValue, Finite, Shown, ShownIfAny, values_of
from registry.http.schemas import Answer, Generation, Label, Name, Number, Part, Request, Text

Line = Annotated[str, StringConstraints(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]


ExpectedRevision = Annotated[
    Generation | None, Field(description="refuse (409) unless the facts are at this revision")
]


class Measured(Request):
    """A metric, of the whole or of a slice of a dataset; null removes it."""

    name: Label
    value: Finite | None
    dataset: Part = ""
    slice: Part = ""


class FactsChange(Request):
    """What is named is set, or with null removed; what is not named stays."""

    tags: Annotated[dict[Label, Text | None], Field(default_factory=dict, max_length=amend.MOST["tag"])]
    metadata: Annotated[
        dict[Label, FactValue | None], Field(default_factory=dict, max_length=amend.MOST["metadata"])
    ]
    parameters: Annotated[
        dict[Label, FactValue | None], Field(default_factory=dict, max_length=amend.MOST["parameter"])
    ]
    metrics: Annotated[list[Measured], Field(default_factory=list, max_length=1000)]
    expected_revision: ExpectedRevision = None

    def wanted(self) -> amend.Change:
        return amend.Change(
            tags=self.tags,
            metadata=values_of(self.metadata),
            parameters=values_of(self.parameters),
            metrics=[amend.Measured(**metric.model_dump()) for metric in self.metrics],
        )


class Metric(Answer):
    name: str
    dataset: str
    slice: str
    value: float


class Facts(Answer):
    """All facts of a version. `revision` grows by one with each change of them, of the card, and of the lineage."""

    revision: int
    tags: dict[str, str]
    metadata: dict[str, Shown]
    parameters: dict[str, Shown]
    metrics: list[Metric]


class CardPut(Request):
    """Markdown; "" removes the card."""

    text: Annotated[str, StringConstraints(max_length=MAX_CARD_BYTES, pattern=r"^[^\x00]*$")]
    expected_revision: ExpectedRevision = None


class Card(Answer):
    """`sections`: its headings. `html`: the card rendered, without raw HTML, images, or links that could run anything."""

    revision: int
    text: str
    sections: list[str]
    html: str


class Link(Request):
    """A version."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    model: Name
    number: Number


class LineagePut(Request):
    """Where a version comes from. It replaces what was said before; "" is not said."""

    run: Line = ""
    repository: Line = ""
    commit: Annotated[Line, Field(max_length=128)] = ""
    image: Line = ""
    datasets: Annotated[
        dict[Label, Annotated[str, Field(max_length=160)]],
        Field(
            default_factory=dict,
            max_length=lineage.MAX_DATASETS,
            examples=[{"train": "sha256:" + "0" * 64}],
        ),
    ]
    parents: Annotated[list[Link], Field(default_factory=list, max_length=lineage.MAX_PARENTS)]
    expected_revision: ExpectedRevision = None

    def origin(self) -> lineage.Origin:
        return lineage.Origin(
            run=self.run,
            repository=self.repository,
            commit=self.commit,
            image=self.image,
            datasets=self.datasets,
            parents=[lineage.Link(each.model, each.number) for each in self.parents],
        )


class Lineage(Answer):
    """`parents` and `children` (the newest 100) are those that one may read."""

    revision: int
    run: str
    repository: str
    commit: str
    image: str
    datasets: dict[str, str]
    parents: list[Link]
    children: list[Link]


class ComparedMetric(Answer):
    """A metric of either version; null: that one does not have it. `difference` is right minus left."""

    name: str
    dataset: str
    slice: str
    left: float | None
    right: float | None
    difference: float | None


class ComparedFact(Answer):
    """A fact that differs; null: that version does not have it."""

    kind: Literal["tag", "metadata", "parameter"]
    name: str
    left: ShownIfAny
    right: ShownIfAny


class ComparedFile(Answer):
    """A file that differs; null: that version does not have it."""

    path: str
    left: schemas.File | None
    right: schemas.File | None


class Comparison(Answer):
    """All metrics of both versions; of other facts and of files those that differ."""

    left: schemas.Version
    right: schemas.Version
    same_content: bool
    same_signature: bool
    metrics: list[ComparedMetric]
    facts: list[ComparedFact]
    files: list[ComparedFile]
