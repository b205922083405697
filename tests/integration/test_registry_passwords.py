"""Logging in with a password: right ones, wrong ones, and those who guess; on each database."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient

from registry import accounts, attempts, expired, passwords
from registry.access import NOBODY, Caller
from registry.app import create_app
from registry.database import Database, utc_now
from registry.errors import TooManyAttempts, WrongCredentials
from registry.login import SESSION_S, Credentials, log_in, set_password
from registry.login_tables import AttemptRow
from registry.settings import Settings
from tests.servers.app import BASE, assert_problem
from tests.servers.people import add_person, add_robot, issued, shut_out

GOOD = "a horse of another colour"
HASH = passwords.hash_password(GOOD, "alice")
KEY = b"k" * 32
STRANGER = Caller(NOBODY, "default", 0)
HERE = "testclient"
"""The address that Starlette's client calls from."""


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    """Somebody without a token."""
    with TestClient(app, base_url=BASE) as client:
        yield client


@pytest.fixture
def alice(database: Database) -> str:
    """Somebody with a password."""
    add_person(database, "alice", HASH)
    return "alice"


def try_password(api: TestClient, name: Any, password: Any) -> Any:
    return api.post("/api/v1/auth/password", json={"name": name, "password": password})


def fail(api: TestClient, name: str, times: int = 1) -> None:
    for _ in range(times):
        assert_problem(try_password(api, name, "wrong"), 401, "wrong_credentials")


def let_time_pass(database: Database, time: timedelta) -> None:
    with database.write() as session:
        for row in session.scalars(sa.select(AttemptRow)):
            row.empty_at -= time
            row.expires_at -= time


def test_the_right_password_opens_a_session(api: TestClient, alice: str, database: Database) -> None:
    answer = try_password(api, alice, GOOD)
    assert answer.status_code == 200
    body = answer.json()
    assert body == {"token": body["token"], "principal": "alice", "expires_in": 12 * 3600}
    assert answer.headers["cache-control"] == "no-store"
    assert issued(database) == [("alice", "session", SESSION_S, None)]


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", " "),
        ("alice", GOOD + " "),
        ("alice", GOOD.title()),
        ("alice", "\0"),
        ("alice", GOOD + "\0"),
        ("alice", "🔑"),
        ("alice", "x" * 1_000_000),
        ("bob", GOOD),
        ("", GOOD),
        ("alice\0", GOOD),
        ("a" * 1_000_000, GOOD),
        ("Alice", GOOD),
        ("nopassword", ""),
        ("robot", GOOD),
    ],
    ids=lambda text: ascii(text[:20]),
)
@pytest.mark.usefixtures("alice")
def test_anything_else_is_wrong_and_only_wrong(
    api: TestClient, database: Database, name: str, password: str
) -> None:
    add_person(database, "nopassword")
    add_robot(database, "robot", password_hash=HASH)
    body = assert_problem(try_password(api, name, password), 401, "wrong_credentials")
    assert body["detail"] == "There is nobody with this name and password."
    assert issued(database) == []


@pytest.mark.parametrize(
    "body", [{}, {"name": "alice"}, {"name": "alice", "password": 5}, {"name": "alice", "password": None}, []]
)
def test_bodies_that_hold_no_password(api: TestClient, body: Any) -> None:
    assert_problem(api.post("/api/v1/auth/password", json=body), 422, "invalid_request")


def test_a_disabled_person_does_not_come_in(api: TestClient, alice: str, database: Database) -> None:
    shut_out(database)
    assert_problem(try_password(api, alice, GOOD), 401, "unauthorized")


def test_who_guesses_a_name_is_told_to_wait_and_only_for_a_while(
    api: TestClient, alice: str, database: Database
) -> None:
    fail(api, alice, attempts.PER_NAME.burst)
    for password in ("wrong", GOOD):
        answer = try_password(api, alice, password)
        assert_problem(answer, 429, "too_many_attempts")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    fail(api, "bob")
    let_time_pass(database, attempts.PER_NAME.every)
    assert try_password(api, alice, GOOD).status_code == 200


def test_a_name_that_does_not_exist_is_counted_alike(api: TestClient) -> None:
    """Else the limit would tell who exists."""
    fail(api, "nobody", attempts.PER_NAME.burst)
    assert_problem(try_password(api, "nobody", "wrong"), 429, "too_many_attempts")


def test_who_guesses_many_names_is_told_to_wait(
    api: TestClient, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PER_ADDRESS", attempts.Limit(5, timedelta(seconds=10)))
    for n in range(5):
        fail(api, f"name-{n}")
    assert_problem(try_password(api, alice, GOOD), 429, "too_many_attempts")


def test_a_refused_attempt_makes_the_wait_no_longer(api: TestClient, alice: str, database: Database) -> None:
    """Or somebody could be kept out for ever."""
    fail(api, alice, attempts.PER_NAME.burst)
    waits = {int(try_password(api, alice, "wrong").headers["retry-after"]) for _ in range(20)}
    assert max(waits) <= 60
    let_time_pass(database, attempts.PER_NAME.burst * attempts.PER_NAME.every)
    fail(api, alice, attempts.PER_NAME.burst)


def test_right_passwords_are_not_counted(
    api: TestClient, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PER_NAME", attempts.Limit(2, timedelta(hours=1)))
    monkeypatch.setattr(attempts, "PER_ADDRESS", attempts.Limit(2, timedelta(hours=1)))
    for _ in range(5):
        assert try_password(api, alice, GOOD).status_code == 200


def test_a_right_password_does_not_excuse_the_wrong_ones(
    api: TestClient, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever has an account could guess at others' for ever."""
    monkeypatch.setattr(attempts, "PER_ADDRESS", attempts.Limit(5, timedelta(hours=1)))
    for n in range(5):
        assert try_password(api, alice, GOOD).status_code == 200
        fail(api, f"name-{n}")
    assert_problem(try_password(api, alice, GOOD), 429, "too_many_attempts")


def come(database: Database, name: str, password: str, address: str) -> str:
    """Log in from an address; returns the token."""
    return log_in(database, KEY, STRANGER, Credentials(name, password, address)).token


def test_a_stranger_cannot_keep_out_whose_name_it_is(alice: str, database: Database) -> None:
    assert come(database, alice, GOOD, "192.0.2.7")
    for _ in range(attempts.PER_NAME.burst):
        with pytest.raises(WrongCredentials):
            come(database, alice, "wrong", "198.51.100.1")
    for address in ("198.51.100.1", "203.0.113.5"):
        with pytest.raises(TooManyAttempts):
            come(database, alice, GOOD, address)
    assert come(database, alice, GOOD, "192.0.2.7")
    # From there, too, only so many guesses are free.
    for _ in range(attempts.PER_NAME.burst):
        with pytest.raises(WrongCredentials):
            come(database, alice, "wrong", "192.0.2.7")
    with pytest.raises(TooManyAttempts):
        come(database, alice, GOOD, "192.0.2.7")


def test_addresses_of_one_customer_are_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PER_ADDRESS", attempts.Limit(1, timedelta(hours=1)))

    def count(name: str, address: str) -> None:
        with database.write() as session:
            attempts.count_attempt(session, name, address)

    count("a", "2001:db8:1:2::1")
    count("b", "2001:db8:1:3::1")
    count("c", "192.0.2.1")
    for name, address in (("d", "2001:db8:1:2:ffff::2"), ("e", "::ffff:192.0.2.1")):
        with pytest.raises(TooManyAttempts):
            count(name, address)


def test_all_registries_of_a_database_count_together(api: TestClient, alice: str, settings: Settings) -> None:
    with TestClient(create_app(settings), base_url=BASE) as second:
        for _ in range(attempts.PER_NAME.burst // 2):
            fail(api, alice)
            fail(second, alice)
        for each in (api, second):
            assert_problem(try_password(each, alice, GOOD), 429, "too_many_attempts")


def test_attempts_at_the_same_moment_are_all_counted(
    alice: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted before the password is looked at: none slips through while another is hashed."""
    checked = []
    monkeypatch.setattr("registry.login.verify_password", lambda _kept, given: checked.append(given))
    refused = []

    def guess(n: int) -> None:
        try:
            come(database, alice, f"guess {n}", "192.0.2.1")
        except TooManyAttempts:
            refused.append(n)
        except WrongCredentials:
            pass

    threads = [threading.Thread(target=guess, args=[n]) for n in range(attempts.PER_NAME.burst + 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(checked), len(refused)) == (attempts.PER_NAME.burst, 15)


def test_neither_names_nor_addresses_are_kept(api: TestClient, database: Database) -> None:
    fail(api, "hunter2 hunter2")
    with database.read() as session:
        kept = session.execute(sa.text("SELECT * FROM login_attempts")).all()
    assert len(kept) == 2
    assert not any("hunter2" in str(value) or HERE in str(value) for row in kept for value in row)


def test_what_has_drained_is_removed(api: TestClient, alice: str, database: Database) -> None:
    def kept() -> int:
        with database.read() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(AttemptRow)) or 0

    fail(api, "bob")
    assert try_password(api, alice, GOOD).status_code == 200
    assert expired.remove_expired(database) == 0
    let_time_pass(database, attempts.PER_NAME.every * 2)
    expired.remove_expired(database)
    assert kept() == 1  # alice was here before
    let_time_pass(database, attempts.REMEMBERED)
    assert (expired.remove_expired(database), kept()) == (1, 0)


def test_many_rows_are_removed_in_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expired, "BATCH", 3)
    with database.write() as session:
        now = session.scalars(sa.select(utc_now())).one() - timedelta(seconds=1)
        session.add_all(AttemptRow(key=f"{n:064}", empty_at=now, expires_at=now) for n in range(7))
    assert expired.remove_expired(database) == 7


def test_a_hash_of_former_parameters_is_replaced(api: TestClient, alice: str, database: Database) -> None:
    former = PasswordHasher(time_cost=1, memory_cost=8192).hash(GOOD)
    with database.write() as session:
        accounts.person_of(session, alice).password_hash = former
    fail(api, alice)
    with database.read() as session:
        assert accounts.password_hash(session, alice) == former
    assert try_password(api, alice, GOOD).status_code == 200
    with database.read() as session:
        kept = accounts.password_hash(session, alice)
    assert kept is not None
    assert not passwords.needs_rehash(kept)
    assert try_password(api, alice, GOOD).status_code == 200


def change(api: TestClient, name: str, password: str, new: str) -> Any:
    body = {"name": name, "password": password, "new_password": new}
    return api.put("/api/v1/auth/password", json=body)


def test_a_password_is_changed_by_whoever_knows_it_and_sessions_end(
    api: TestClient, alice: str, database: Database
) -> None:
    assert try_password(api, alice, GOOD).status_code == 200
    assert_problem(change(api, alice, "wrong", "another good one"), 401, "wrong_credentials")
    assert_problem(change(api, alice, GOOD, "short"), 400, "invalid_password")
    assert len(issued(database)) == 1
    assert change(api, alice, GOOD, "another good one").status_code == 204
    assert issued(database) == []
    fail_with = try_password(api, alice, GOOD)
    assert_problem(fail_with, 401, "wrong_credentials")
    assert try_password(api, alice, "another good one").status_code == 200


def test_changing_is_limited_as_logging_in_is(api: TestClient, alice: str) -> None:
    for _ in range(attempts.PER_NAME.burst):
        assert_problem(change(api, alice, "wrong", "another good one"), 401, "wrong_credentials")
    assert_problem(change(api, alice, GOOD, "another good one"), 429, "too_many_attempts")


def test_a_password_that_was_replaced_meanwhile_is_the_wrong_one(
    alice: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify_late(kept: str | None, password: str) -> bool:
        set_password(database, STRANGER, alice, "another good one")
        return passwords.verify_password(kept, password)

    monkeypatch.setattr("registry.login.verify_password", verify_late)
    with pytest.raises(WrongCredentials):
        come(database, alice, GOOD, "192.0.2.1")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "not an address", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_behind_a_trusted_proxy_the_address_is_the_one_it_names(
    peer: str, forwarded: str | None, address: str
) -> None:
    from fastapi import Request

    from registry.http.address import client_address

    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    request = Request({"type": "http", "client": (peer, 1), "headers": headers})
    assert client_address(request, Settings(trusted_proxies=("10.0.0.0/8",))) == address  # type: ignore[arg-type]
