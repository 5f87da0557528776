"""The table: how it is made, and how old records leave it."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from temporal_saga import fence
from temporal_saga.errors import Conflict
from tests.fence.support import Bank, Database, environment, new_key, transaction

DAY = timedelta(days=1)


def age(database: Database, key: str, by: timedelta) -> None:
    """Make a record older."""
    seconds = by.total_seconds()
    back = (
        f"strftime('%Y-%m-%d %H:%M:%f', updated_at, '-{seconds} seconds')"
        if database.dialect == "sqlite"
        else f"updated_at - make_interval(secs => {seconds})"
    )
    with transaction(database.connect()) as connection:
        connection.cursor().execute(f"UPDATE temporal_saga_fence SET updated_at = {back} WHERE key = '{key}'")


def purge(database: Database, older_than: timedelta = DAY, **options: Any) -> int:
    with transaction(database.connect()) as connection:
        return fence.purge(connection, older_than=older_than, **{"retry_horizon": DAY, **options})


def test_the_ddl_makes_the_same_table(database: Database) -> None:
    with transaction(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("DROP TABLE temporal_saga_fence")
        for statement in fence.DDL[database.dialect].split(";")[:-1]:  # type: ignore[index]
            cursor.execute(statement)
        fence.create_table(connection)  # finds it
    bank, key = Bank(database), new_key()
    assert bank.take(key) == 90
    assert bank.give_back(key) == 100


def test_the_columns_are_those_that_the_page_names(database: Database) -> None:
    bank, key = Bank(database), new_key()
    bank.take(key)
    bank.give_back(key)
    rows = database.query("SELECT key, state, payload, result, undo_payload, undo_result FROM temporal_saga_fence")
    ((found, state, payload, result, undo_payload, undo_result),) = rows
    assert (found, state, result, undo_result) == (key, "undone", "90", "100")
    assert payload == undo_payload
    assert len(payload) == 64


def test_creating_it_again_changes_nothing(database: Database) -> None:
    bank, key = Bank(database), new_key()
    bank.take(key)
    for options in ({}, {"autocommit": True} if database.dialect == "postgresql" else {"isolation_level": None}):
        connection = database.connect(**options)
        fence.create_table(connection)
        connection.commit()
    assert database.state == "applied"


@pytest.mark.parametrize("autocommit", [True, False])
def test_workers_that_start_at_once_may_all_create_it(postgresql: Database, autocommit: bool) -> None:
    for _ in range(10):
        with transaction(postgresql.connect()) as connection:
            connection.execute("DROP TABLE temporal_saga_fence")
        barrier = threading.Barrier(4)

        def start(barrier: threading.Barrier = barrier) -> None:
            connection = postgresql.connect(autocommit=autocommit)
            barrier.wait(30)
            fence.create_table(connection)
            connection.commit()
            connection.close()

        with ThreadPoolExecutor(4) as threads:
            for worker in [threads.submit(start) for _ in range(4)]:
                worker.result(30)
    assert postgresql.state is None


def test_a_purge_takes_what_is_older_and_counts_it(database: Database) -> None:
    bank = Bank(database)
    old, undone, fenced, young = (new_key() for _ in range(4))
    for key in (old, undone, young):
        bank.take(key, 1)
    bank.give_back(undone, 1)
    bank.give_back(fenced, 1)
    for key in (old, undone, fenced):
        age(database, key, DAY + timedelta(seconds=1))
    age(database, young, DAY - timedelta(minutes=1))
    assert purge(database) == 3
    assert database.query("SELECT key FROM temporal_saga_fence") == [(young,)]
    assert purge(database) == 0


def test_the_age_of_a_record_is_that_of_its_last_change(database: Database) -> None:
    bank, key = Bank(database), new_key()
    bank.take(key)
    age(database, key, 2 * DAY)
    bank.give_back(key)
    assert purge(database) == 0


def test_a_purge_in_batches_takes_the_oldest_first(database: Database) -> None:
    bank = Bank(database)
    keys = [new_key() for _ in range(5)]
    for number, key in enumerate(keys):
        bank.take(key, 1)
        age(database, key, (number + 2) * DAY)
    assert purge(database, limit=2) == 2
    assert sorted(database.query("SELECT key FROM temporal_saga_fence")) == sorted((key,) for key in keys[:3])
    assert [purge(database, limit=2) for _ in range(3)] == [2, 1, 0]


def test_a_purge_that_would_let_a_late_step_through_is_refused(database: Database) -> None:
    connection = database.connect()
    with pytest.raises(ValueError, match="a late step would not be refused"):
        fence.purge(connection, older_than=DAY, retry_horizon=DAY + timedelta(microseconds=1))
    with pytest.raises(ValueError, match="must not be negative"):
        fence.purge(connection, older_than=-DAY, retry_horizon=-2 * DAY)


def test_why_it_is_refused(database: Database) -> None:
    """What happens once the record is gone: the late step applies, and no one will undo it."""
    bank, key = Bank(database), new_key()
    assert bank.give_back(key) is None
    age(database, key, 2 * DAY)
    purge(database)
    assert bank.take(key) == 90


def test_a_purge_leaves_out_what_someone_holds(postgresql: Database) -> None:
    bank, key = Bank(postgresql), new_key()
    bank.take(key)
    age(postgresql, key, 2 * DAY)
    with transaction(postgresql.connect()) as connection:
        environment("undo", key).run(lambda: fence.once(connection, lambda: None, payload=1))
        assert purge(postgresql) == 0


def test_a_record_that_is_purged_under_a_repeat(database: Database) -> None:
    """Between the statement that finds the key taken, and the one that reads its record: tried again."""
    key = new_key()
    Bank(database).take(key)

    class Connection:
        def __init__(self) -> None:
            self.connection = database.connect()

        def cursor(self) -> Any:
            cursor = self.connection.cursor()
            if self.connection_has_claimed:
                cursor.execute("DELETE FROM temporal_saga_fence")
            self.connection_has_claimed = True
            return cursor

        connection_has_claimed = False

        def commit(self) -> None: ...

    def attempt() -> Any:
        return fence.once(Connection(), lambda: 1, payload=10, dialect=database.dialect)  # type: ignore[arg-type]

    with pytest.raises(Conflict, match="has just been deleted"):
        environment("do", key).run(attempt)


def test_a_table_that_is_not_there(sqlite: Database) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(RuntimeError, match=r"^table temporal_saga_fence is missing in the connection's database"):
        environment("do", new_key()).run(lambda: fence.once(connection, lambda: 1, payload=1))
    connection.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.deep)])
def test_of_many_records_old_ones_leave_in_batches_while_steps_go_on(database: Database, rows: int) -> None:
    """A batch deletes no more than its limit, and a step goes on after each: SQLite has only one writer at a time."""
    bank = Bank(database)
    with transaction(database.connect()) as connection:
        if database.dialect == "sqlite":
            numbers = f"WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {rows})"
            key, old = "lower(hex(randomblob(16)))", "'2000-01-01'"
        else:
            numbers = f"WITH t AS (SELECT generate_series(1, {rows}) AS n)"
            key, old = "gen_random_uuid()", "'2000-01-01'::timestamptz"
        connection.cursor().execute(
            "INSERT INTO temporal_saga_fence (key, state, claim, payload, updated_at) "
            f"{numbers} SELECT {key}, 'applied', 'x', 'x', {old} FROM t"
        )
    for _ in range(5):
        assert purge(database, limit=10_000) == 10_000
        bank.take(new_key(), 1)
    assert database.balance == 95
