"""The client: one method per thing that can be done with a registry. Everything difficult happens elsewhere.

publish, register      _capture / _formats  ->  _manifest  ->  _upload
download               _cache               ->  _download
everything else        one request          ->  _types
"""

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from modelyard._errors import (
    ApiError,
    CaptureWarning,
    InvalidPath,
    ModelyardError,
    UnexpectedAnswer,
    UnsupportedModel,
    api_error,
)
from modelyard._facts import (
    Card,
    Change,
    Comparison,
    Deployment,
    Facts,
    Lineage,
    Metric,
    Run,
    Value,
    values_to_wire,
)
from modelyard._governance import PromotionRequest, Verdict
from modelyard._parallel import Progress
from modelyard._ref import Ref, check_model, check_pointer, parse_ref
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

if TYPE_CHECKING:
    import httpx2

_PAGE = 100
_LOOK_AGAIN_S = 0.3

T = TypeVar("T")


class Client:
    """A connection to one registry; usable as a context manager and from several threads.

    `url` and `token` default to MODELYARD_URL and MODELYARD_TOKEN, then to what `modelyard login` stored, then to
    http://127.0.0.1:7070 and the token that a registry on this machine keeps for its user; an empty `token` means none. A
    URL that ends in /w/NAME selects a workspace. `timeout_s` bounds each connect, read and write. `transport` replaces
    the network (an httpx2 transport), for tests and unusual routes.

    Every method raises ConnectionFailed when nothing answers, and ApiError (NotFound, Conflict, InvalidRequest,
    Unauthorized, Forbidden) when the registry refuses.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        transport: "httpx2.BaseTransport | None" = None,
    ) -> None:
        from modelyard import _config
        from modelyard._http import Http

        self._config = _config.load(url, token)
        self._http = Http(self._config, timeout_s=timeout_s, transport=transport)

    @property
    def url(self) -> str:
        """The registry's address."""
        return self._config.url

    def __repr__(self) -> str:
        return f"Client(url={self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._http.close()

    def publish(
        self,
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
        """Make a fitted scikit-learn estimator the next version of `name`; a path is registered as by `register`.

        `example`: a few rows as the estimator takes them (numpy array (rows, features) or pandas DataFrame). With it
        the version gets a signature, a recorded answer for checking reloads, and an ONNX variant if the estimator can
        be converted. What cannot be had is told by a CaptureWarning. `metrics` are numbers by name, or `Metric`s of datasets;
        `metadata` and `parameters` are texts, numbers, booleans and aware datetimes by name. Raises CaptureError and its kin for an estimator
        that is not fitted, cannot be saved, or does not accept the example.
        """
        if isinstance(model, (str, os.PathLike)):
            if not (example is None or isinstance(example, str)):
                raise UnsupportedModel(
                    "With a path, `example` is the path of a recorded example inside it, not data."
                )
            return self.register(
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
        import tempfile

        from modelyard._capture import capture
        from modelyard._manifest import survey

        check_model(name)
        with tempfile.TemporaryDirectory(prefix="modelyard-") as folder:
            captured = capture(model, example, Path(folder))
            _warn(captured.notes)
            facts = {
                "format": captured.variants[0].format,
                "variants": [variant.to_wire() for variant in captured.variants],
                "signature": captured.signature and captured.signature.to_wire(),
                "example": captured.example,
                **_facts(metrics, description, tags, metadata, parameters),
            }
            return self._upload(name, Path(folder), survey(Path(folder), own=True), facts, progress)

    def register(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - the field's name on the wire and in Version
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
        """Make a file or directory the next version of `name`.

        `format` is guessed from file names if not given: see docs/sdk.md. `example` is the path, inside the directory,
        of a recorded V2 request and response. Raises InvalidPath, naming the file, for what cannot be part of a version
        (links, special files, unsafe names), and IntegrityError if a file changes meanwhile.
        """
        from modelyard._formats import describe, guess
        from modelyard._manifest import survey

        check_model(name)
        root = Path(path).expanduser()
        if not root.exists():
            raise InvalidPath(f"There is no file or directory {str(root)!r}.")
        root = root.absolute()
        files = survey(root)
        given = tuple(variants)
        described = describe(root, files, format or (given[0].format if given else guess(files)), given)
        if signature is None:
            signature = described.signature
            _warn([described.note] if described.note else [])
        facts = {
            "format": described.format,
            "variants": [variant.to_wire() for variant in described.variants],
            "signature": signature and signature.to_wire(),
            "example": example,
            **_facts(metrics, description, tags, metadata, parameters),
        }
        return self._upload(name, root, files, facts, progress)

    def _upload(
        self, name: str, root: Path, files: Any, facts: dict[str, Any], progress: Progress | None
    ) -> Version:
        from modelyard._upload import upload

        return _understand(Version.from_wire, upload(self._http, name, root, files, facts, progress))

    def promote(
        self,
        name: str,
        number: int,
        to: str = "production",
        *,
        expected_generation: int | None = None,
        reason: str = "",
        at: datetime | None = None,
        wait_s: float = 600.0,
    ) -> Promotion:
        """Give version `number` the stage (production, staging, archived, none) or alias `to`.

        While the registry still checks the bytes of a large new version, this waits, `wait_s` seconds at most; then it
        raises Conflict (version_unverified).

        With `expected_generation` it happens only if the pointer has not moved since (0: was never used), else Conflict
        with code generation_conflict, whose `data` tells generation and number.

        Where policy demands that others approve, or with `at` (not before then), nothing moves yet: the answer's `request` is
        the number of the promotion request. Conflict (checks_failed, no_such_edge, model_frozen) or Forbidden when policy
        refuses; `preview` tells before.
        """
        body: dict[str, Any] = {"number": int(number), "to": to, "reason": reason}
        body |= {"expected_generation": expected_generation} | ({} if at is None else {"at": at.isoformat()})
        path = f"/api/v1/models/{check_model(name)}/promotions"
        until = time.monotonic() + wait_s
        while True:
            try:
                return _understand(Promotion.from_wire, self._http.send("POST", path, body))
            except ApiError as error:
                if error.code != "version_unverified" or time.monotonic() > until:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    def rollback(
        self,
        name: str,
        pointer: str = "production",
        *,
        expected_generation: int | None = None,
        reason: str = "",
    ) -> Promotion:
        """Return `pointer` to the version that it held before; Conflict (nothing_to_roll_back) if there is none."""
        body = {"pointer": pointer, "expected_generation": expected_generation, "reason": reason}
        return _understand(
            Promotion.from_wire,
            self._http.send("POST", f"/api/v1/models/{check_model(name)}/rollbacks", body),
        )

    def remove_alias(self, name: str, alias: str, *, expected_generation: int | None = None) -> Promotion:
        """Let an alias point to nothing."""
        path = f"/api/v1/models/{check_model(name)}/pointers/{check_pointer(alias)}"
        params = {} if expected_generation is None else {"expected_generation": expected_generation}
        return _understand(Promotion.from_wire, self._http.send("DELETE", path, params=params))

    def resolve(self, ref: str | Ref) -> Version:
        """The version that a reference names now; NotFound if there is none."""
        return _understand(Version.from_wire, self._http.get(self._place(ref)))

    def _place(self, ref: str | Ref, noun: str = "") -> str:
        """The path of a version, or of something of it; NotFound if the reference names none now."""
        ref = ref if isinstance(ref, Ref) else parse_ref(ref)
        number = ref.number
        if ref.pointer is not None:
            number = self.pointer(ref.model, ref.pointer).number
        if number is None:
            raise api_error("pointer_vacant", 404, f"Nothing holds {str(ref)!r} at present.")
        return f"/api/v1/models/{check_model(ref.model)}/versions/{number}{noun}"

    def pointer(self, name: str, pointer: str, *, at: datetime | None = None) -> Pointer:
        """A stage or alias, as it is or was `at` a time; NotFound if it was not used before. Its `number` is None if nothing
        holds it.
        """
        path = f"/api/v1/models/{check_model(name)}/pointers/{check_pointer(pointer)}"
        return _understand(Pointer.from_wire, self._http.get(path, _at(at)))

    def model(self, name: str) -> Model:
        """A model with its pointers."""
        return _understand(Model.from_wire, self._http.get(f"/api/v1/models/{check_model(name)}"))

    def models(self, search: str | None = None) -> Iterator[Model]:
        """All models, or those whose name contains `search`; pages are fetched while iterating."""
        return self._pages("/api/v1/models", Model.from_wire, {"search": search} if search else {})

    def versions(self, name: str) -> Iterator[Version]:
        """All versions of a model, newest first; pages are fetched while iterating."""
        return self._pages(f"/api/v1/models/{check_model(name)}/versions", Version.from_wire, {})

    def search(self, query: str = "", *, order: str = "model") -> Iterator[Version]:
        """Versions of all models for which a search holds; pages are fetched while iterating.

        For example `tags.team = risk AND (metrics.auc[test] >= 0.97 OR stage = production)`; docs/search.md has the
        grammar. `order` is "model" (newest model first, of each the newest version first) or "created" (newest version
        first). Raises InvalidRequest (invalid_query), whose `data` tells position and what was expected there.
        """
        return self._pages("/api/v1/search", Version.from_wire, {"q": query, "order": order})

    def history(self, name: str, pointer: str | None = None, *, at: datetime | None = None) -> Iterator[Move]:
        """All moves of a model's pointers, or of one, newest first; with `at`: of each the one that counted at that time.

        Pages are fetched while iterating.
        """
        params = ({"pointer": pointer} if pointer else {}) | _at(at)
        return self._pages(f"/api/v1/models/{check_model(name)}/history", Move.from_wire, params)

    def preview(self, name: str, number: int, to: str = "production") -> Verdict:
        """What would become of a promotion, by policy: nothing is changed by asking."""
        path = f"/api/v1/models/{check_model(name)}/promotions"
        return _understand(Verdict.from_wire, self._http.get(path, {"number": int(number), "to": to}))

    def requests(self, name: str, *, still_open: bool = False) -> Iterator[PromotionRequest]:
        """The promotion requests of a model, or only the open ones, newest first; pages are fetched while iterating."""
        params = {"state": "open"} if still_open else {}
        return self._pages(f"/api/v1/models/{check_model(name)}/requests", PromotionRequest.from_wire, params)

    def request(self, name: str, request: int) -> PromotionRequest:
        """One promotion request, with all that was said about it."""
        return _understand(PromotionRequest.from_wire, self._http.get(_request(name, request)))

    def approve(
        self, name: str, request: int, *, text: str = "", fact_revision: int | None = None
    ) -> PromotionRequest:
        """Approve of what somebody else has asked for; the last approval that is needed promotes.

        With `fact_revision`: only if nothing has been said of the version since, else Conflict (version_changed). Forbidden
        (four_eyes) for whoever has asked.
        """
        body = {"text": text, "fact_revision": fact_revision}
        return self._on_request(name, request, "approve", body)

    def reject(self, name: str, request: int, *, text: str = "") -> PromotionRequest:
        """Refuse what a request asks for."""
        return self._on_request(name, request, "reject", {"text": text})

    def withdraw(self, name: str, request: int, *, text: str = "") -> PromotionRequest:
        """Take back what you have asked for."""
        return self._on_request(name, request, "withdraw", {"text": text})

    def comment(self, name: str, request: int, text: str) -> PromotionRequest:
        """Say something about an open request."""
        return self._on_request(name, request, "comments", {"text": text})

    def _on_request(self, name: str, request: int, verb: str, body: dict[str, Any]) -> PromotionRequest:
        answer = self._http.send("POST", f"{_request(name, request)}/{verb}", body)
        return _understand(PromotionRequest.from_wire, answer)

    def freeze(self, name: str, reason: str) -> Model:
        """Let no pointer of a model move until it is thawed, whatever policy says."""
        path = f"/api/v1/models/{check_model(name)}/freeze"
        return _understand(Model.from_wire, self._http.send("PUT", path, {"reason": reason}, repeatable=True))

    def thaw(self, name: str) -> Model:
        """Let the pointers of a frozen model move again."""
        path = f"/api/v1/models/{check_model(name)}/freeze"
        return _understand(Model.from_wire, self._http.send("DELETE", path))

    def facts(self, ref: str | Ref) -> Facts:
        """Tags, metadata, parameters and metrics of a version, on every dataset and slice."""
        return _understand(Facts.from_wire, self._http.get(self._place(ref, "/facts")))

    def change_facts(
        self,
        ref: str | Ref,
        *,
        tags: Mapping[str, str | None] | None = None,
        metadata: Mapping[str, Value | None] | None = None,
        parameters: Mapping[str, Value | None] | None = None,
        metrics: Mapping[str, float | None] | Iterable[Metric] = (),
        expected_revision: int | None = None,
    ) -> Facts:
        """Set facts of a version, or remove those that are None; what is not named stays. All of it happens, or nothing.

        Any change makes approvals void that were given before. With `expected_revision` it happens only if nothing was
        changed since, else Conflict (facts_conflict).
        """
        change = Change(tags or {}, metadata or {}, parameters or {}, metrics)
        body = change.to_wire(expected_revision)
        answer = self._http.send(
            "PATCH", self._place(ref, "/facts"), body, repeatable=expected_revision is None
        )
        return _understand(Facts.from_wire, answer)

    def card(self, ref: str | Ref) -> Card:
        """The model card of a version; its `text` is "" if it has none."""
        return _understand(Card.from_wire, self._http.get(self._place(ref, "/card")))

    def set_card(self, ref: str | Ref, text: str, *, expected_revision: int | None = None) -> Card:
        """Give a version a model card (Markdown, 256 KiB at most), or with "" none."""
        body = {"text": text, "expected_revision": expected_revision}
        answer = self._http.send("PUT", self._place(ref, "/card"), body, repeatable=expected_revision is None)
        return _understand(Card.from_wire, answer)

    def lineage(self, ref: str | Ref) -> Lineage:
        """What a version was made from, and what was made from it."""
        return _understand(Lineage.from_wire, self._http.get(self._place(ref, "/lineage")))

    def set_lineage(
        self,
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
        """Say what a version was made from, instead of what was said before.

        `datasets`: digests (algorithm, colon, hexadecimal digits) by the name of their part, as in `{"train":
        "sha256:…"}`. `parents`: older versions, as in `["base/3"]`.
        """
        of = [each if isinstance(each, Ref) else parse_ref(each) for each in parents]
        body = {
            "run": run,
            "repository": repository,
            "commit": commit,
            "image": image,
            "datasets": dict(datasets or {}),
            "parents": [{"model": each.model, "number": self._number(each)} for each in of],
            "expected_revision": expected_revision,
        }
        answer = self._http.send(
            "PUT", self._place(ref, "/lineage"), body, repeatable=expected_revision is None
        )
        return _understand(Lineage.from_wire, answer)

    def compare(self, left: str | Ref, right: str | Ref) -> Comparison:
        """Two versions side by side: metrics, other facts and files that differ, signatures."""
        sides = (each if isinstance(each, Ref) else parse_ref(each) for each in (left, right))
        one, other = (f"{check_model(each.model)}/{self._number(each)}" for each in sides)
        answer = self._http.get("/api/v1/compare", {"left": one, "right": other})
        return _understand(Comparison.from_wire, answer)

    def deployments(self, name: str, number: int | None = None) -> Iterator[Deployment]:
        """Which serving adapters run a model, or one version of it; pages are fetched while iterating."""
        params = {} if number is None else {"number": number}
        return self._pages(f"/api/v1/models/{check_model(name)}/deployments", Deployment.from_wire, params)

    def report_deployments(self, adapter: str, runs: Iterable[Run]) -> int:
        """For a serving adapter: report all that it runs, every 30 seconds; returns of how many models that was kept."""
        from urllib.parse import quote

        path = f"/api/v1/adapters/{quote(adapter, safe='')}/deployments"
        body = {"runs": [run.to_wire() for run in runs]}
        answer = self._http.send("PUT", path, body, repeatable=True)
        return _understand(lambda wire: int(wire["kept"]), answer)

    def _number(self, ref: Ref) -> int:
        return ref.number if ref.number is not None else self.resolve(ref).number

    def download(
        self,
        ref_or_version: str | Ref | Version,
        dest: str | os.PathLike[str] | None = None,
        *,
        offline: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Fetch a version's files; returns the directory that holds them.

        `dest` must not exist or be empty; it appears complete and verified, or not at all. Without `dest` the verified
        cache is used: treat what is there as read-only. With `offline` nothing is asked: the version must be complete in
        the cache, else NotCached says what is missing; a reference means what it was last seen to mean.

        Raises IntegrityError when bytes or the list of files are not those that the version's digest promises, InvalidPath
        when the destination cannot be used.
        """
        if dest is not None and not offline:
            from modelyard._download import download_into

            version = ref_or_version if isinstance(ref_or_version, Version) else self.resolve(ref_or_version)
            return download_into(self._http, version, Path(dest).expanduser(), progress)
        from modelyard._cache import Cache, cached

        cache = Cache(self._config.home / "cache", registry=self._config.url)
        cache.prepare()
        if isinstance(ref_or_version, Version):
            version, ref = ref_or_version, f"{ref_or_version.model}/{ref_or_version.number}"
        else:
            ref = str(ref_or_version)
            version = cache.refs.last_seen(ref).version if offline else self.resolve(ref)
        path = cached(None if offline else self._http, version, self._config.home, progress)
        if not offline:
            cache.refs.remember(ref, version)
        return path if dest is None else _copied(path, Path(dest).expanduser())

    def download_files(self, version: Version, files: Iterable[File], dest: str | os.PathLike[str]) -> Path:
        """Fetch some files of a version, verified, into the directory `dest`, which must not exist; returns `dest`."""
        from modelyard._download import Source, fetch_into

        source = Source(self._http, version)
        source.files()
        return fetch_into(source, list(files), Path(dest), None)

    def export(
        self,
        ref_or_version: str | Ref | Version,
        dest: str | os.PathLike[str] | None = None,
        *,
        directory: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Write a version to one file (an OCI image layout in the shape of CNCF ModelPack, as a tar); returns its path.

        `dest` is a new file, or a directory to put NAME-NUMBER.modelyard.tar in (default: the current one); with `directory`
        it becomes a directory instead of a tar. Raises InvalidPath and what `download` raises.
        """
        from modelyard._portable import export

        return export(self, ref_or_version, dest, directory=directory, progress=progress)

    def import_(
        self, path: str | os.PathLike[str], name: str | None = None, *, progress: Progress | None = None
    ) -> Version:
        """Make an exported version, or another ModelPack artifact, the next version of `name` (default: its own name).

        All of it is verified before anything is uploaded. Raises InvalidArchive and what `register` raises.
        """
        from modelyard._portable import import_

        return import_(self, path, name, progress=progress)

    def events(
        self, since: int, *, wait_s: float = 0.0, models: Iterable[str] = (), kinds: Iterable[str] = ()
    ) -> Feed:
        """What happened after revision `since`: all that you may see, or what is of `models` and `kinds`.

        In both `*` stands for any text: `models=["team-*"], kinds=["pointer.*"]`.

        Answers at once when there is something, else after `wait_s` seconds at most (the registry allows 60) with no
        events. Ask next with the `revision` of the answer. `info().revision` is where to begin.

        Look at everything again, and begin anew, when the `revision` of the answer is below `since` (the registry was
        restored from a backup, or you may see less than before), and at ApiError `events_trimmed`: you have not asked
        for longer than the registry keeps events, 30 days as a rule.
        """
        params: dict[str, Any] = {"since": since, "wait": wait_s}
        if chosen := [name if "*" in name else check_model(name) for name in models]:
            params["model"] = chosen
        if chosen := list(kinds):
            params["kind"] = chosen
        return _understand(Feed.from_wire, self._http.get("/api/v1/events", params, wait_s=wait_s))

    def info(self) -> ServerInfo:
        """What the registry says about itself."""
        return _understand(ServerInfo.from_wire, self._http.get("/api/v1"))

    def _pages(self, path: str, read: Callable[[Any], T], params: dict[str, Any]) -> Iterator[T]:
        after: str | None = None
        while True:
            page = self._http.get(path, params | {"limit": _PAGE} | ({"after": after} if after else {}))
            items, following = _understand(
                lambda wire: ([read(each) for each in wire["items"]], wire["next"]), page
            )
            yield from items
            if following is None:
                return
            if following == after:
                raise UnexpectedAnswer("The registry gave the same page twice.")
            after = following


def _at(at: datetime | None) -> dict[str, str]:
    return {} if at is None else {"at": at.isoformat()}


def _request(name: str, request: int) -> str:
    return f"/api/v1/models/{check_model(name)}/requests/{int(request)}"


def _copied(source: Path, dest: Path) -> Path:
    import shutil

    try:
        shutil.copytree(source, dest, copy_function=shutil.copyfile)
    except OSError as error:
        raise InvalidPath(
            f"{str(dest)!r} cannot be made: {error.strerror}. Name one that does not exist."
        ) from error
    return dest


def _understand(read: Callable[[Any], T], wire: Any) -> T:
    try:
        return read(wire)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(
            f"The registry's answer cannot be understood ({type(error).__name__}: {error}). Is it of this version?"
        ) from error


def _facts(
    metrics: Mapping[str, float] | Iterable[Metric] | None,
    description: str,
    tags: Mapping[str, str] | None,
    metadata: Mapping[str, Value] | None,
    parameters: Mapping[str, Value] | None,
) -> dict[str, Any]:
    by_name, measured = (metrics, ()) if isinstance(metrics, Mapping) else ({}, metrics or ())
    # float(): numpy's numbers are not JSON's.
    numbers = {name: float(value) for name, value in by_name.items()}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ModelyardError(f"Metric {name!r} is {value}, which JSON cannot carry: leave it out.")
    return {
        "description": description,
        "metrics": numbers,
        "tags": {k: str(v) for k, v in (tags or {}).items()},
        # Left out where there is none: a registry of before there were such takes it all the same.
        **({"measured": [metric.to_wire() for metric in measured]} if measured else {}),
        **({"metadata": values_to_wire(metadata)} if metadata else {}),
        **({"parameters": values_to_wire(parameters)} if parameters else {}),
    }


def _warn(notes: Iterable[str]) -> None:
    """Issue CaptureWarnings that point to the first caller outside this package."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - warnings' own way of skipping frames came with Python 3.12
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "modelyard":
        frame, level = frame.f_back, level + 1
    for note in notes:
        warnings.warn(note, CaptureWarning, stacklevel=level)
