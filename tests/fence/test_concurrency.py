"""Attempts at the same time, in threads; two processes that race are in `race/`."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from temporal_saga import fence
from temporal_saga.errors import Fenced
from tests.fence.support import Bank, Database, environment, new_key, postgresql_database, sqlite_database

CONFLICTS = (sqlite3.OperationalError, psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


@pytest.fixture(params=["sqlite", "read committed", "repeatable read", "serializable"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        with sqlite_database(tmp_path) as database:
            yield database
    else:
        with postgresql_database(request.getfixturevalue("postgres"), request.param) as database:
            yield database


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def until_done(attempt: Callable[[], Any]) -> Any:
    """Try again after a conflict, as an activity is."""
    for _ in range(100):
        try:
            return attempt()
        except Fenced:
            return "fenced"
        except CONFLICTS:
            continue
    raise AssertionError("always a conflict")


def test_attempts_of_one_step_at_once(database: Database, threads: ThreadPoolExecutor) -> None:
    bank, key, barrier = Bank(database), new_key(), threading.Barrier(8)

    def attempt() -> Any:
        barrier.wait(30)
        return until_done(lambda: bank.take(key))

    results = [each.result(50) for each in [threads.submit(attempt) for _ in range(8)]]
    assert results == [90] * 8
    assert database.balance == 90


def test_steps_and_their_undos_at_once(database: Database, threads: ThreadPoolExecutor) -> None:
    bank = Bank(database)
    keys = [new_key() for _ in range(20)]
    calls: list[Future[Any]] = []
    for number, key in enumerate(keys):
        pair = [lambda key=key: bank.take(key, 1), lambda key=key: bank.give_back(key, 1)]
        calls += [threads.submit(until_done, each) for each in (pair if number % 2 else reversed(pair))]
    for call in calls:
        call.result(50)
    assert database.balance == 100
    assert {state for (state,) in database.query("SELECT state FROM temporal_saga_fence")} <= {"undone", "fenced"}


class Held:
    """A step that has done its work and not committed yet."""

    def __init__(self, database: Database, key: str, threads: ThreadPoolExecutor) -> None:
        self._go, ready = threading.Event(), threading.Event()
        self._commit = True

        def attempt() -> None:
            connection = database.connect()
            fence.once(connection, lambda: Bank(database)._add(connection, -10), payload=10)
            ready.set()
            assert self._go.wait(50)
            connection.commit() if self._commit else connection.rollback()

        self._call = threads.submit(environment("do", key).run, attempt)
        assert ready.wait(50)

    def end(self, *, commit: bool) -> None:
        time.sleep(0.2)  # so that the other is at work meanwhile
        self._commit = commit
        self._go.set()
        self._call.result(50)


def test_an_undo_waits_for_a_step_under_way_and_undoes_it(database: Database, threads: ThreadPoolExecutor) -> None:
    bank, key = Bank(database), new_key()
    step = Held(database, key, threads)
    undo = threads.submit(until_done, lambda: bank.give_back(key))
    step.end(commit=True)
    assert undo.result(50) == 100
    assert database.state == "undone"


def test_an_undo_waits_for_a_step_that_is_rolled_back(database: Database, threads: ThreadPoolExecutor) -> None:
    bank, key = Bank(database), new_key()
    step = Held(database, key, threads)
    undo = threads.submit(until_done, lambda: bank.give_back(key))
    step.end(commit=False)
    assert undo.result(50) is None
    assert database.state == "fenced"
    assert database.balance == 100
    assert until_done(lambda: bank.take(key)) == "fenced"


def test_a_repeat_waits_for_an_undo_under_way(database: Database, threads: ThreadPoolExecutor) -> None:
    """It does not answer with a result that is about to be undone."""
    bank, key, ready = Bank(database), new_key(), threading.Event()
    bank.take(key)

    def undo() -> None:
        connection = database.connect()
        fence.once(connection, lambda: Bank(database)._add(connection, 10), payload=10)
        ready.set()
        time.sleep(0.3)
        connection.commit()

    undoing = threads.submit(environment("undo", key).run, undo)
    assert ready.wait(50)
    assert until_done(lambda: bank.take(key)) == "fenced"
    undoing.result(50)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("phase", ["do", "undo"])
def test_a_conflict_passes_through_and_the_next_attempt_settles_it(postgres: str, isolation: str, phase: str) -> None:
    with postgresql_database(postgres, isolation) as database:
        bank, key, connection = Bank(database), new_key(), database.connect()
        connection.execute("SELECT balance FROM account")  # its snapshot is older than the step
        bank.take(key)

        def late() -> Any:
            return fence.once(connection, lambda: bank._add(connection, 10), payload=10)

        with pytest.raises(psycopg.errors.SerializationFailure):
            environment(phase, key).run(late)
        connection.rollback()
        assert environment(phase, key, attempt=2).run(late) == (90 if phase == "do" else 100)
        connection.commit()


def test_a_snapshot_of_sqlite_that_is_too_old_passes_through(sqlite: Database) -> None:
    bank, key, connection = Bank(sqlite), new_key(), sqlite.connect(isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("BEGIN")
    connection.execute("SELECT balance FROM account").fetchall()
    bank.take(key)

    def late() -> Any:
        return fence.once(connection, lambda: bank._add(connection, 10), payload=10)

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        environment("undo", key).run(late)
    connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    assert environment("undo", key).run(late) == 100
    connection.execute("COMMIT")
    assert sqlite.balance == 100
