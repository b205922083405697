"""Everything that can go wrong in the registry, as a tree. No HTTP here: http/errors.py maps classes to statuses.

RegistryError
├── InvalidInput            the request asks for something that can never be
│   ├── InvalidName         a model name or alias outside the rules
│   ├── InvalidPath         a file path outside the rules
│   ├── InvalidDigest       not "sha256:" and 64 lower-case hex digits
│   ├── InvalidFiles        a file list that is empty, too long, or names a path twice
│   ├── InvalidFacts        signature, variants or example do not fit the files; what is said of a version cannot be so
│   ├── InvalidCursor       a page cursor that this registry did not hand out
│   ├── InvalidQuery        a search that cannot be read, and where
│   ├── InvalidUrl          a webhook's URL that is none, or leads where webhooks may not go
│   ├── DigestMismatch      received bytes do not have the digest that was announced
│   ├── SizeMismatch        received bytes do not have the size that was announced
│   ├── InvalidPassword     a new password that breaks the rules
│   ├── InvalidPublisher    a trusted publisher that would trust too many
│   ├── InvalidPolicy       a policy that names what cannot be
│   ├── InvalidExpression   a comparison of metrics that makes no sense, and where it stops to
│   └── LoginExpired        a browser login that is over, was never begun here, or began in another browser
├── Unauthorized            no token, or not a valid one
│   ├── WrongCredentials    no such name with this password
│   ├── InvalidToken        an identity token that proves nothing here
│   ├── LoginRefused        the identity provider did not say who it is
│   ├── NoTrustedPublisher  it proves something, but nobody trusts that
│   └── UnknownIdentity     the identity provider knows them, this registry does not
├── Forbidden               may be seen, but not done, by this caller
│   ├── NotByPolicy         policy names others who may do it
│   └── FourEyes            nobody approves what they have asked for themselves
├── NotFound                absent, or not for this caller
│   ├── ModelNotFound  VersionNotFound  FileNotFound  PointerNotFound  UploadNotFound
│   ├── WorkspaceNotFound  PrincipalNotFound  GroupNotFound  GrantNotFound  TokenNotFound
│   ├── WebhookNotFound  DeliveryNotFound
│   ├── IssuerNotFound  PublisherNotFound  PolicyNotFound  RequestNotFound
├── Conflict                right in itself, but not now
│   ├── ModelExists  NameTaken
│   ├── AmbiguousPublisher  a token fits several trusted publishers, of different principals
│   ├── GenerationConflict  the pointer moved since the caller looked
│   ├── NothingToRollBack   the pointer has no earlier holder
│   ├── UploadIncomplete    the version names bytes that have not arrived
│   ├── UploadUsed          the upload became another version already
│   ├── FactsConflict       the facts of the version were changed since the caller looked
│   ├── TooManyFacts        the version has as many of this kind as it may have
│   ├── TooManyAdapters     as many adapters report for one principal as may
│   ├── VersionInUse        a pointer or a legal hold forbids to delete the version
│   ├── VersionUnverified   its bytes are still being checked; ask again in a moment
│   ├── VersionDamaged      its bytes are not what they should be
│   ├── VersionPurged       deleted for good: the restore window is over
│   ├── TooManyWebhooks     the workspace has as many as it may have
│   ├── WebhookInactive     nothing is sent to it; activate it first
│   ├── ModelFrozen         no pointer of the model moves until it is thawed
│   ├── NoSuchEdge          policy knows no such move
│   ├── ChecksFailed        the version is not as policy demands
│   ├── RequestClosed       it was done, rejected, withdrawn, or is too old
│   ├── VersionChanged      facts about the version are not those that an approver has seen
│   ├── PolicyChanged       somebody else has set the policy since the caller looked
│   └── QuotaExceeded       the workspace has as many versions or bytes as it may have
├── IdempotencyMismatch     the same idempotency key with another request
├── Gone
│   ├── UploadExpired
│   ├── EventsTrimmed       events that a watcher has not seen are not kept any more
│   ├── RevisionUnknown     the feed has not come to this revision: it is another one, or a restored one
│   └── VersionDeleted      deleted; it may still be restored
├── TooManyRequests         more requests a minute than the workspace allows
│   └── TooManyAttempts     of logging in
└── Unavailable             try again later
    ├── StoreUnavailable
    ├── DatabaseUnavailable
    ├── IssuerUnavailable   the identity provider does not answer, or with nothing that can be used
    └── TooManyWatchers     as many wait for events as may
"""

from collections.abc import Mapping, Sequence
from typing import Any


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


class InvalidQuery(InvalidInput):
    """`position`: of the first character that does not fit, counted from 1."""

    code = "invalid_query"

    def __init__(self, expected: str, position: int) -> None:
        super().__init__(
            f"At character {position} of the search, this was expected: {expected}.",
            position=position,
            expected=expected,
        )


class InvalidUrl(InvalidInput):
    code = "invalid_url"


class DigestMismatch(InvalidInput):
    code = "digest_mismatch"


class SizeMismatch(InvalidInput):
    code = "size_mismatch"


class InvalidPassword(InvalidInput):
    code = "invalid_password"


class InvalidPublisher(InvalidInput):
    code = "invalid_publisher"


class InvalidPolicy(InvalidInput):
    code = "invalid_policy"


class InvalidExpression(InvalidInput):
    code = "invalid_expression"

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message, position=position)


class LoginExpired(InvalidInput):
    code = "login_expired"

    def __init__(self) -> None:
        super().__init__("This login is over, or began in another browser. Begin again.")


class Unauthorized(RegistryError):
    code = "unauthorized"


class WrongCredentials(Unauthorized):
    code = "wrong_credentials"

    def __init__(self) -> None:
        super().__init__("There is nobody with this name and password.")


class InvalidToken(Unauthorized):
    """`why` must not repeat anything of the token."""

    code = "invalid_token"

    def __init__(self, why: str) -> None:
        super().__init__(f"This identity token is not accepted: {why}.")


class LoginRefused(Unauthorized):
    code = "login_refused"

    def __init__(self, answered: str) -> None:
        super().__init__(f"The identity provider let nobody in: it answered {answered}.")


class NoTrustedPublisher(Unauthorized):
    code = "no_trusted_publisher"

    def __init__(self) -> None:
        super().__init__(
            "The token is genuine, but no trusted publisher of this workspace has its issuer and claims. "
            "An admin of the workspace can add one."
        )


class UnknownIdentity(Unauthorized):
    code = "unknown_identity"

    def __init__(self) -> None:
        super().__init__(
            "The identity provider knows you, but this registry has no account for you. "
            "Its administrators can make one."
        )


class Forbidden(RegistryError):
    code = "forbidden"
    denied = True


class NotByPolicy(Forbidden):
    code = "not_by_policy"
    denied = True

    def __init__(self, what: str, who: Sequence[str]) -> None:
        super().__init__(f"By policy {what} is for {', '.join(who)} only.", who=list(who))


class FourEyes(Forbidden):
    code = "four_eyes"
    denied = True

    def __init__(self) -> None:
        super().__init__("Somebody else has to approve: you have asked for it yourself.")


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


class IssuerNotFound(NotFound):
    code = "issuer_not_found"

    def __init__(self) -> None:
        super().__init__("This registry has no identity provider of this name that people can log in with.")


class PublisherNotFound(NotFound):
    code = "publisher_not_found"

    def __init__(self, publisher: int) -> None:
        super().__init__(f"There is no trusted publisher {publisher} in this workspace.")


class PolicyNotFound(NotFound):
    code = "policy_not_found"

    def __init__(self, pattern: str) -> None:
        super().__init__(f"There is no policy for {pattern!r} in this workspace.")


class RequestNotFound(NotFound):
    code = "request_not_found"

    def __init__(self, model: str, request: int) -> None:
        super().__init__(f"Model {model!r} has no promotion request {request}.")


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


class AmbiguousPublisher(Conflict):
    code = "ambiguous_publisher"

    def __init__(self, principals: Sequence[str]) -> None:
        super().__init__(
            "The token fits trusted publishers of several principals: say which of them with `principal`.",
            principals=sorted(principals),
        )


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


class ModelFrozen(Conflict):
    code = "model_frozen"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"Model {model!r} is frozen: no pointer moves until it is thawed.", reason=reason)


class NoSuchEdge(Conflict):
    code = "no_such_edge"

    def __init__(self, source: str, to: str, pattern: str) -> None:
        super().__init__(
            f"The policy for {pattern!r} knows no move from {source!r} to {to!r}.",
            policy=pattern,
            **{"from": source},
        )


class ChecksFailed(Conflict):
    code = "checks_failed"

    def __init__(self, findings: Sequence[Mapping[str, Any]]) -> None:
        wrong = " ".join(finding["said"] for finding in findings if not finding["passed"])
        super().__init__(f"The version is not as policy demands. {wrong}", findings=list(findings))


class RequestClosed(Conflict):
    code = "request_closed"

    def __init__(self, request: int, state: str) -> None:
        super().__init__(f"Promotion request {request} is {state}. Ask for the promotion again.", state=state)


class VersionChanged(Conflict):
    code = "version_changed"

    def __init__(self, fact_revision: int) -> None:
        super().__init__(
            "What is said about the version has changed since you looked. Look again, then decide.",
            fact_revision=fact_revision,
        )


class PolicyChanged(Conflict):
    code = "policy_changed"

    def __init__(self, revision: int) -> None:
        super().__init__("The policy was set by somebody else since you looked.", revision=revision)


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


class FactsConflict(Conflict):
    code = "facts_conflict"

    def __init__(self, model: str, number: int, expected: int, revision: int) -> None:
        super().__init__(
            f"The facts of {model}/{number} are at revision {revision}; {expected} was expected. Look again, then decide.",
            revision=revision,
        )


class TooManyFacts(Conflict):
    code = "too_many_facts"

    def __init__(self, kind: str, limit: int) -> None:
        super().__init__(f"A version has at most {limit} facts of the kind {kind!r}.", limit=limit)


class TooManyAdapters(Conflict):
    code = "too_many_adapters"


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


class EventsTrimmed(Gone):
    code = "events_trimmed"

    def __init__(self, oldest: int) -> None:
        super().__init__(
            "Some events after this revision are not kept any more. Look at everything again, then follow from now on.",
            oldest=oldest,
        )


class RevisionUnknown(Gone):
    code = "revision_unknown"

    def __init__(self, revision: int) -> None:
        super().__init__(
            "The feed has not come to this revision, so you have it from elsewhere. Look at everything again, then follow "
            "from now on.",
            revision=revision,
        )


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


class TooManyAttempts(TooManyRequests):
    code = "too_many_attempts"


class Unavailable(RegistryError):
    code = "unavailable"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class IssuerUnavailable(Unavailable):
    code = "issuer_unavailable"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"The identity provider {name!r} cannot be used right now: {why}.")


class TooManyWatchers(Unavailable):
    code = "too_many_watchers"
