"""Checkpoints: who signed what, and what is no checkpoint."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from registry.checkpoints import (
    MAX_BYTES,
    Checkpoint,
    Doubt,
    Found,
    Mark,
    NotAPublicKey,
    Signer,
    key_id,
    public_pem,
    read_all,
    read_public_pem,
)
from storage.layout import checkpoint_key

SIGNER = Signer(b"a secret key of 32 characters, or more")
AT = "2026-11-22T10:00:00.123456Z"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def chain(*sequences: int, signer: Signer = SIGNER) -> list[Checkpoint]:
    signed: list[Checkpoint] = []
    for sequence in sequences:
        before = signed[-1].mark if signed else None
        signed.append(signer.sign(Mark(sequence, digest(sequence)), AT, before))
    return signed


def found(checkpoints: list[Checkpoint]) -> list[Found]:
    return [Found(checkpoint_key(each.sequence), each.content()) for each in checkpoints]


def doubts(given: list[Found], *signers: Signer) -> list[Doubt]:
    return list(read_all(given, [signer.public_key for signer in signers or (SIGNER,)])[1])


def test_the_key_pair_depends_on_nothing_but_the_secret_key() -> None:
    """And it is the pair of ever, or nobody could verify what was signed before this release."""
    [checkpoint] = chain(7)
    assert Signer(b"a secret key of 32 characters, or more").sign(checkpoint.mark, AT, None) == checkpoint
    assert key_id(SIGNER.public_key) == checkpoint.key_id == "f4e1501203b1ca77"
    assert (
        checkpoint.signature
        == "t8vaLguCFGTUAw9csIax5gcijlsp+jRwKyirIrBgdeYkl/TIr/YXnHT2ykb86M7O+AcnJK6psKVW3F2SXXn7Bw=="
    )
    assert key_id(Signer(b"another").public_key) != key_id(SIGNER.public_key)


def test_a_public_key_is_given_away_as_pem() -> None:
    pem = public_pem(SIGNER.public_key)
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert key_id(read_public_pem(pem.encode())) == key_id(SIGNER.public_key)


def test_another_key_is_no_public_key_of_ours() -> None:
    other = generate_private_key(SECP256R1()).public_key()
    for pem in (b"", b"x", other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)):
        with pytest.raises(NotAPublicKey):
            read_public_pem(pem)


def test_what_is_signed_is_read_back_in_order() -> None:
    signed = chain(3, 7, 20)
    trusted, wrong = read_all(reversed(found(signed)), [SIGNER.public_key])
    assert (list(trusted), list(wrong)) == (signed, [])


def test_the_same_one_twice_is_one() -> None:
    signed = chain(3, 7)
    copies = [Found("copy.json", each.content()) for each in signed]
    assert list(read_all([*found(signed), *copies], [SIGNER.public_key])[0]) == signed


@pytest.mark.parametrize("field", sorted(Checkpoint.model_fields))
def test_nothing_in_it_can_be_changed(field: str) -> None:
    other: dict[str, Any] = {
        "format": "modelyard.audit.checkpoint/2",
        "sequence": 8,
        "digest": digest(8),
        "at": AT.replace("2026", "2027"),
        "previous": None,
        "key_id": "0" * 16,
        "signature": base64.b64encode(bytes(64)).decode(),
    }
    last = chain(3, 7)[-1]
    document = json.loads(last.content()) | {field: other[field]}
    changed = Found("somewhere", json.dumps(document).encode())
    assert len(doubts([*found(chain(3)), changed])) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"sequence": 7}', b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * MAX_BYTES],
)
def test_what_is_no_checkpoint_is_told_as_that(content: bytes) -> None:
    [doubt] = doubts([Found(checkpoint_key(7), content)])
    assert (doubt.sequence, "not a checkpoint" in doubt.detail) == (7, True)


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"sequence": "7"}, {"sequence": 7.0}, {"sequence": 0}, {"digest": "x"}]
)
def test_what_is_almost_a_checkpoint_is_none(change: dict[str, Any]) -> None:
    document = json.loads(chain(7)[0].content()) | change
    assert len(doubts([Found(checkpoint_key(7), json.dumps(document).encode())])) == 1


def test_one_under_the_name_of_another_is_told() -> None:
    first = found(chain(3, 7))[0]
    [misplaced] = doubts([first, Found(checkpoint_key(7), first.content)])
    assert (misplaced.sequence, "instead of its own" in misplaced.detail) == (7, True)


def test_one_of_another_key_is_told_unless_that_key_is_given_as_well() -> None:
    other = Signer(b"another")
    both = [*found(chain(3)), *found(chain(7, signer=other))]
    [doubt] = doubts(both)
    assert (doubt.sequence, "none of those given" in doubt.detail) == (7, True)
    assert doubts(both, SIGNER, other) == []
    assert [doubt.sequence for doubt in doubts(both, other)] == [3]


def test_one_that_is_missing_from_the_middle_is_told_by_the_next() -> None:
    signed = chain(3, 7, 20, 30)
    assert [doubt.sequence for doubt in doubts(found([signed[0], signed[3]]))] == [20]
    assert [doubt.sequence for doubt in doubts(found(signed[1:]))] == [3]
    assert doubts(found(signed[:2])) == []


def test_a_chain_may_fork_as_two_registries_sign() -> None:
    first = chain(3)
    forked = [SIGNER.sign(Mark(number, digest(number)), AT, first[0].mark) for number in (5, 6)]
    assert doubts(found([*first, *forked])) == []


def test_secrets_do_not_print() -> None:
    assert "secret" not in repr(SIGNER)
