"""The functions of the module: the methods of one Client that is made on first use.

Each has the signature of the method of the same name; a test compares them.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from modelyard._client import Client
from modelyard._facts import Card, Comparison, Deployment, Facts, Lineage, Metric, Run, Value
from modelyard._governance import PromotionRequest, Verdict
from modelyard._parallel import Progress
from modelyard._ref import Ref
from modelyard._types import (
    Feed,
    File,
    Model,
    Move,
    Pointer,
    Promotion,
    ServerInfo,
    Signature,
    Variant,
    Version,
)

_lock = threading.Lock()
_made: list[Client] = []


def _client() -> Client:
    with _lock:
        if not _made:
            _made.append(Client())
        return _made[0]


def publish(
    name: str,
    model: Any,
    *,
    example: Any = None,
    metrics: Mapping[str, float] | Iterable[Metric] | None = None,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, Value] | None = None,
    parameters: Mapping[str, Value] | None = None,
    progress: Progress | None = None,
) -> Version:
    """See Client.publish."""
    return _client().publish(
        name,
        model,
        example=example,
        metrics=metrics,
        description=description,
        tags=tags,
        metadata=metadata,
        parameters=parameters,
        progress=progress,
    )


def register(
    name: str,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - as in Client.register
    variants: Iterable[Variant] = (),
    signature: Signature | None = None,
    example: str | None = None,
    metrics: Mapping[str, float] | Iterable[Metric] | None = None,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, Value] | None = None,
    parameters: Mapping[str, Value] | None = None,
    progress: Progress | None = None,
) -> Version:
    """See Client.register."""
    return _client().register(
        name,
        path,
        format=format,
        variants=variants,
        signature=signature,
        example=example,
        metrics=metrics,
        description=description,
        tags=tags,
        metadata=metadata,
        parameters=parameters,
        progress=progress,
    )


def promote(
    name: str,
    number: int,
    to: str = "production",
    *,
    expected_generation: int | None = None,
    reason: str = "",
    at: datetime | None = None,
    wait_s: float = 600.0,
) -> Promotion:
    """See Client.promote."""
    return _client().promote(
        name, number, to, expected_generation=expected_generation, reason=reason, at=at, wait_s=wait_s
    )


def preview(name: str, number: int, to: str = "production") -> Verdict:
    """See Client.preview."""
    return _client().preview(name, number, to)


def requests(name: str, *, still_open: bool = False) -> Iterator[PromotionRequest]:
    """See Client.requests."""
    return _client().requests(name, still_open=still_open)


def request(name: str, request: int) -> PromotionRequest:
    """See Client.request."""
    return _client().request(name, request)


def approve(name: str, request: int, *, text: str = "", fact_revision: int | None = None) -> PromotionRequest:
    """See Client.approve."""
    return _client().approve(name, request, text=text, fact_revision=fact_revision)


def reject(name: str, request: int, *, text: str = "") -> PromotionRequest:
    """See Client.reject."""
    return _client().reject(name, request, text=text)


def withdraw(name: str, request: int, *, text: str = "") -> PromotionRequest:
    """See Client.withdraw."""
    return _client().withdraw(name, request, text=text)


def comment(name: str, request: int, text: str) -> PromotionRequest:
    """See Client.comment."""
    return _client().comment(name, request, text)


def freeze(name: str, reason: str) -> Model:
    """See Client.freeze."""
    return _client().freeze(name, reason)


def thaw(name: str) -> Model:
    """See Client.thaw."""
    return _client().thaw(name)


def rollback(
    name: str, pointer: str = "production", *, expected_generation: int | None = None, reason: str = ""
) -> Promotion:
    """See Client.rollback."""
    return _client().rollback(name, pointer, expected_generation=expected_generation, reason=reason)


def remove_alias(name: str, alias: str, *, expected_generation: int | None = None) -> Promotion:
    """See Client.remove_alias."""
    return _client().remove_alias(name, alias, expected_generation=expected_generation)


def resolve(ref: str | Ref) -> Version:
    """See Client.resolve."""
    return _client().resolve(ref)


def pointer(name: str, pointer: str, *, at: datetime | None = None) -> Pointer:
    """See Client.pointer."""
    return _client().pointer(name, pointer, at=at)


def model(name: str) -> Model:
    """See Client.model."""
    return _client().model(name)


def models(search: str | None = None) -> Iterator[Model]:
    """See Client.models."""
    return _client().models(search)


def versions(name: str) -> Iterator[Version]:
    """See Client.versions."""
    return _client().versions(name)


def search(query: str = "", *, order: str = "model") -> Iterator[Version]:
    """See Client.search."""
    return _client().search(query, order=order)


def history(name: str, pointer: str | None = None, *, at: datetime | None = None) -> Iterator[Move]:
    """See Client.history."""
    return _client().history(name, pointer, at=at)


def facts(ref: str | Ref) -> Facts:
    """See Client.facts."""
    return _client().facts(ref)


def change_facts(
    ref: str | Ref,
    *,
    tags: Mapping[str, str | None] | None = None,
    metadata: Mapping[str, Value | None] | None = None,
    parameters: Mapping[str, Value | None] | None = None,
    metrics: Mapping[str, float | None] | Iterable[Metric] = (),
    expected_revision: int | None = None,
) -> Facts:
    """See Client.change_facts."""
    return _client().change_facts(
        ref,
        tags=tags,
        metadata=metadata,
        parameters=parameters,
        metrics=metrics,
        expected_revision=expected_revision,
    )


def card(ref: str | Ref) -> Card:
    """See Client.card."""
    return _client().card(ref)


def set_card(ref: str | Ref, text: str, *, expected_revision: int | None = None) -> Card:
    """See Client.set_card."""
    return _client().set_card(ref, text, expected_revision=expected_revision)


def lineage(ref: str | Ref) -> Lineage:
    """See Client.lineage."""
    return _client().lineage(ref)


def set_lineage(
    ref: str | Ref,
    *,
    run: str = "",
    repository: str = "",
    commit: str = "",
    image: str = "",
    datasets: Mapping[str, str] | None = None,
    parents: Iterable[str | Ref] = (),
    expected_revision: int | None = None,
) -> Lineage:
    """See Client.set_lineage."""
    return _client().set_lineage(
        ref,
        run=run,
        repository=repository,
        commit=commit,
        image=image,
        datasets=datasets,
        parents=parents,
        expected_revision=expected_revision,
    )


def compare(left: str | Ref, right: str | Ref) -> Comparison:
    """See Client.compare."""
    return _client().compare(left, right)


def deployments(name: str, number: int | None = None) -> Iterator[Deployment]:
    """See Client.deployments."""
    return _client().deployments(name, number)


def report_deployments(adapter: str, runs: Iterable[Run]) -> int:
    """See Client.report_deployments."""
    return _client().report_deployments(adapter, runs)


def download(
    ref_or_version: str | Ref | Version,
    dest: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """See Client.download."""
    return _client().download(ref_or_version, dest, offline=offline, progress=progress)


def download_files(version: Version, files: Iterable[File], dest: str | os.PathLike[str]) -> Path:
    """See Client.download_files."""
    return _client().download_files(version, files, dest)


def export(
    ref_or_version: str | Ref | Version,
    dest: str | os.PathLike[str] | None = None,
    *,
    directory: bool = False,
    progress: Progress | None = None,
) -> Path:
    """See Client.export."""
    return _client().export(ref_or_version, dest, directory=directory, progress=progress)


def import_(
    path: str | os.PathLike[str], name: str | None = None, *, progress: Progress | None = None
) -> Version:
    """See Client.import_."""
    return _client().import_(path, name, progress=progress)


def events(since: int, *, wait_s: float = 0.0, models: Iterable[str] = (), kinds: Iterable[str] = ()) -> Feed:
    """See Client.events."""
    return _client().events(since, wait_s=wait_s, models=models, kinds=kinds)


def info() -> ServerInfo:
    """See Client.info."""
    return _client().info()
