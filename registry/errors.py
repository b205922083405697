"""Everything that can go wrong in the registry, as a tree. No HTTP here: http/errors.py maps classes to statuses.

RegistryError
├── InvalidInput            the request asks for something that can never be
│   ├── InvalidName         a model name or alias outside the rules
│   ├── InvalidPath         a file path outside the rules
│   ├── InvalidDigest       not "sha256:" and 64 lower-case hex digits
│   ├── InvalidFiles        a file list that is empty, too long, or names a path twice
│   ├── InvalidFacts        signature, variants or example do not fit the files
│   ├── InvalidCursor       a page cursor that this registry did not hand out
│   ├── InvalidUrl          a webhook's URL that is none, or leads where webhooks may not go
│   ├── DigestMismatch      received bytes do not have the digest that was announced
│   └── SizeMismatch        received bytes do not have the size that was announced
├── Unauthorized            no token, or not a valid one
├── Forbidden               may be seen, but not done, by this caller
├── NotFound                absent, or not for this caller
│   ├── ModelNotFound  VersionNotFound  FileNotFound  PointerNotFound  UploadNotFound
│   ├── WorkspaceNotFound  PrincipalNotFound  GroupNotFound  GrantNotFound  TokenNotFound
│   ├── WebhookNotFound  DeliveryNotFound
├── Conflict                right in itself, but not now
│   ├── ModelExists  NameTaken
│   ├── GenerationConflict  the pointer moved since the caller looked
│   ├── NothingToRollBack   the pointer has no earlier holder
│   ├── UploadIncomplete    the version names bytes that have not arrived
│   ├── UploadUsed          the upload became another version already
│   ├── VersionInUse        a pointer or a legal hold forbids to delete the version
│   ├── VersionUnverified   its bytes are still being checked; ask again in a moment
│   ├── VersionDamaged      its bytes are not what they should be
│   ├── VersionPurged       deleted for good: the restore window is over
│   ├── TooManyWebhooks     the workspace has as many as it may have
│   ├── WebhookInactive     nothing is sent to it; activate it first
│   └── QuotaExceeded       the workspace has as many versions or bytes as it may have
├── IdempotencyMismatch     the same idempotency key with another request
├── Gone
│   ├── UploadExpired
│   └── VersionDeleted      deleted; it may still be restored
├── TooManyRequests         more requests a minute than the workspace allows
└── Unavailable             try again later
    ├── StoreUnavailable
    └── DatabaseUnavailable
"""

from collections.abc import Sequence


class RegistryError(Exception):
    """Base of all expected failures. `code` is stable and public; `data` goes into the answer beside it.

    `denied`: the caller has not the right, whatever the answer says; that is audited.
    """

    code = "registry_error"
    denied = False

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.data = data


class InvalidInput(RegistryError):
    code = "invalid_request"


class InvalidName(InvalidInput):
    code = "invalid_name"


class InvalidPath(InvalidInput):
    code = "invalid_path"


class InvalidDigest(InvalidInput):
    code = "invalid_digest"


class InvalidFiles(InvalidInput):
    code = "invalid_files"


class InvalidFacts(InvalidInput):
    code = "invalid_facts"


class InvalidCursor(InvalidInput):
    code = "invalid_cursor"


class InvalidUrl(InvalidInput):
    code = "invalid_url"


class DigestMismatch(InvalidInput):
    code = "digest_mismatch"


class SizeMismatch(InvalidInput):
    code = "size_mismatch"


class Unauthorized(RegistryError):
    code = "unauthorized"


class Forbidden(RegistryError):
    code = "forbidden"
    denied = True


class NotFound(RegistryError):
    code = "not_found"


class WorkspaceNotFound(NotFound):
    code = "workspace_not_found"

    def __init__(self, workspace: str) -> None:
        super().__init__(
            f"There is no workspace {workspace!r}, or you have been given no rights in it. Its admins can give you some."
        )


class PrincipalNotFound(NotFound):
    code = "principal_not_found"


class GroupNotFound(NotFound):
    code = "group_not_found"

    def __init__(self, group: str) -> None:
        super().__init__(f"There is no group {group!r} in this workspace.")


class GrantNotFound(NotFound):
    code = "grant_not_found"

    def __init__(self, grant: int) -> None:
        super().__init__(f"There is no grant {grant} in this workspace.")


class TokenNotFound(NotFound):
    code = "token_not_found"

    def __init__(self, token_id: str) -> None:
        super().__init__(f"There is no token {token_id!r} that is yours to revoke.")


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"There is no model {model!r}.")


class VersionNotFound(NotFound):
    code = "version_not_found"

    def __init__(self, model: str, number: int) -> None:
        super().__init__(f"Model {model!r} has no version {number}.")


class FileNotFound(NotFound):
    code = "file_not_found"


class PointerNotFound(NotFound):
    code = "pointer_not_found"

    def __init__(self, model: str, pointer: str) -> None:
        super().__init__(f"Model {model!r} has never had a {pointer!r} version.")


class UploadNotFound(NotFound):
    code = "upload_not_found"


class WebhookNotFound(NotFound):
    code = "webhook_not_found"


class DeliveryNotFound(NotFound):
    code = "delivery_not_found"


class Conflict(RegistryError):
    code = "conflict"


class ModelExists(Conflict):
    code = "model_exists"


class NameTaken(Conflict):
    code = "name_taken"


class QuotaExceeded(Conflict):
    code = "quota_exceeded"


class GenerationConflict(Conflict):
    code = "generation_conflict"

    def __init__(self, pointer: str, expected: int, generation: int, number: int | None) -> None:
        held = "nothing" if number is None else f"version {number}"
        super().__init__(
            f"{pointer!r} is at generation {generation} and holds {held}; generation {expected} was expected. "
            "Look again, then decide.",
            generation=generation,
            number=number,
        )


class NothingToRollBack(Conflict):
    code = "nothing_to_roll_back"


class UploadIncomplete(Conflict):
    code = "upload_incomplete"

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            "Some bytes of this version have not arrived. Upload them, then create the version again.",
            missing=sorted(missing),
        )


class UploadUsed(Conflict):
    code = "upload_used"


class VersionInUse(Conflict):
    code = "version_in_use"


class VersionUnverified(Conflict):
    code = "version_unverified"

    def __init__(self, model: str, number: int) -> None:
        super().__init__(
            f"The registry is still checking the bytes of {model}/{number}. Ask again in a moment.",
        )


class VersionDamaged(Conflict):
    code = "version_damaged"

    def __init__(self, model: str, number: int) -> None:
        super().__init__(
            f"The stored bytes of {model}/{number} are not what its digest promises. Publish the same files again to repair "
            "it, or use another version."
        )


class VersionPurged(Conflict):
    code = "version_purged"


class TooManyWebhooks(Conflict):
    code = "too_many_webhooks"


class WebhookInactive(Conflict):
    code = "webhook_inactive"


class IdempotencyMismatch(RegistryError):
    code = "idempotency_mismatch"


class Gone(RegistryError):
    """Was there, and is not any more."""


class UploadExpired(Gone):
    code = "upload_expired"


class VersionDeleted(Gone):
    code = "version_deleted"

    def __init__(self, model: str, number: int) -> None:
        super().__init__(
            f"Version {number} of {model!r} was deleted. Restore it while the restore window is open."
        )


class TooManyRequests(RegistryError):
    """`retry_after_s` says when to try again."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(RegistryError):
    code = "unavailable"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
