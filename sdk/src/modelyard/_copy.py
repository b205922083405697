"""Copy a version from one registry to another: download, verified -> upload -> the digest must be the same.

What the other has already, as any version of the model with the same files and the same facts, is not copied again:
a copy that was interrupted, or is made every night, can be repeated.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelyard._client import Client
from modelyard._errors import IntegrityError, NotFound
from modelyard._oci import facts_of
from modelyard._parallel import Progress
from modelyard._portable import two_steps
from modelyard._ref import Ref
from modelyard._types import Version


@dataclass(frozen=True, slots=True)
class Copied:
    """The version in both registries; `created` is False if the other had it already."""

    source: Version
    target: Version
    created: bool


def copy(
    source: Client,
    ref: str | Ref,
    target: Client,
    name: str | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Make a version of `source` the next version of `name` in `target`; `name` is the same model's if not given.

    Files, digest, format, variants, signature, example, description, metrics and tags are the same afterwards; number,
    time, author and pointers are the target's own. With `force` it is copied even if `target` has it. Raises what
    `Client.download` and `Client.register` raise.
    """
    version = source.resolve(ref)
    model = name or version.model
    if not force and (known := _find(target, model, version)):
        return Copied(version, known, created=False)
    with tempfile.TemporaryDirectory(prefix="modelyard-") as private:
        first, second = two_steps(progress, version.size)
        root = source.download(version, Path(private) / "content", progress=first)
        copied = target._upload(model, root, list(version.files), facts_of(version), second)  # noqa: SLF001 - of this package
    if copied.digest != version.digest:
        raise IntegrityError(
            f"{target.url} calls {copied.model}/{copied.number} {copied.digest}, but {version.digest} was sent."
        )
    return Copied(version, copied, created=True)


def _find(target: Client, model: str, version: Version) -> Version | None:
    """The newest version of `model` with the files and the facts of `version`."""
    wanted = (version.digest, facts_of(version))
    try:
        return next(
            (each for each in target.versions(model) if (each.digest, facts_of(each)) == wanted), None
        )
    except NotFound:
        return None
