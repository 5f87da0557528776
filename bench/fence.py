"""What the fence costs: one transaction with it and without, taking turns, on SQLite and PostgreSQL.

Times are medians of whole transactions, from the first statement to the end of the commit. Statements and round trips
are counted, the latter by the turns from sending to receiving in a trace of PostgreSQL's wire protocol.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from temporalio.testing import ActivityEnvironment

from temporal_saga import fence
from tests.postgres import server

MILLION = 1_000_000
_STEP = "UPDATE account SET balance = balance - 1 WHERE id = 1"


def connect_sqlite(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    return connection


def prepare(connection: Any) -> None:
    fence.create_table(connection)
    connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
    connection.execute("INSERT INTO account VALUES (1, 0)")
    connection.commit()


def fill(connection: Any) -> None:
    """Put a million records into the fence's table, as steps with a result leave them."""
    if isinstance(connection, sqlite3.Connection):
        numbers = f"WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {MILLION})"
        key = "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-' || hex(randomblob(2)) || '-' ||"
        key += " hex(randomblob(2)) || '-' || hex(randomblob(6)))"
    else:
        numbers, key = f"WITH t AS (SELECT generate_series(1, {MILLION}) AS n)", "gen_random_uuid()"
    connection.execute(
        "INSERT INTO temporal_saga_fence (key, state, claim, payload, result) "
        f"{numbers} SELECT {key}, 'applied', '{'0' * 32}', '{'0' * 64}', '90' FROM t"
    )
    connection.commit()
    with contextlib.suppress(AttributeError):
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE temporal_saga_fence")  # its hint bits, which the first readers would write
        connection.autocommit = False


class Subject:
    """A connection, and a step on it with the fence or without."""

    def __init__(self, connection: Any, *, fenced: bool = True, result: object = None, pipeline: bool = False) -> None:
        self._connection = connection
        self._fenced = fenced
        self._result = result
        self._pipeline = pipeline
        self._environment = ActivityEnvironment()

    def effect(self) -> object:
        self._connection.execute(_STEP)
        return self._result

    def transaction(self) -> float:
        """Run one, under a new key, and return the seconds it took."""
        key = f"withdraw:do:{uuid.uuid4()}"
        self._environment.info = dataclasses.replace(self._environment.info, activity_id=key)
        return self._environment.run(self._timed)

    def _timed(self) -> float:
        began = time.perf_counter()
        if self._pipeline:
            with self._connection.transaction(), self._connection.pipeline():
                self._step()
        else:
            self._step()
            self._connection.commit()
        return time.perf_counter() - began

    def _step(self) -> None:
        if self._fenced:
            fence.once(self._connection, self.effect, payload={"account": 1, "amount": 1})
        else:
            self.effect()

    def statements(self) -> int:
        """Count the statements of one transaction, without its begin and end."""
        connection, seen = self._connection, list[Any]()
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(seen.append)
            self.transaction()
            connection.set_trace_callback(None)
            return sum(not statement.startswith(("BEGIN", "COMMIT")) for statement in seen)

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                seen.append(query)
                return super().execute(query, *args, **kwargs)

        connection.cursor_factory = Cursor
        self.transaction()
        connection.cursor_factory = psycopg.Cursor
        return len(seen)

    def round_trips(self) -> int:
        """Count how often one transaction waits for PostgreSQL."""
        with tempfile.TemporaryFile("w+") as trace:
            self._connection.pgconn.trace(trace.fileno())
            self.transaction()
            self._connection.pgconn.untrace()
            trace.seek(0)
            directions = [line.split("\t")[1] for line in trace]  # F: from here; B: back
        return sum(pair == ("F", "B") for pair in itertools.pairwise(directions))


def medians(budget: float, *subjects: Subject) -> list[float]:
    """Return the median seconds of a transaction of each; they take turns."""
    for subject in subjects:
        for _ in range(20):
            subject.transaction()
    turns = [(subject, list[float]()) for subject in subjects]
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(turns[0][1]) < 50:
        order = list(turns)
        random.shuffle(order)  # in a fixed order each would pay for what the one before left to the disk
        for subject, times in order:
            times.append(subject.transaction())
    return [statistics.median(times) for _, times in turns]


def compare(name: str, connect: Callable[[], Any], budget: float) -> None:
    """Print the lines of one kind of database; `connect` makes one, and a connection to it."""
    plain, fenced, keeping = connect(), connect(), connect()
    for connection in (plain, fenced, keeping):
        prepare(connection)
    pipeline = "pipeline" in name
    without = Subject(plain, fenced=False, pipeline=pipeline)
    subjects = {
        "no result": Subject(fenced, pipeline=pipeline),
        "a result": Subject(keeping, result={"balance": 90}, pipeline=pipeline),
    }
    base, *times = medians(budget, without, *subjects.values())
    for (kind, subject), spent in zip(subjects.items(), times, strict=True):
        line = f"{name:>30} {kind:>10} {base * 1e6:>8.0f} us {spent * 1e6:>8.0f} us {spent / base:>7.2f}"
        line += f" {subject.statements() - without.statements():>11}"
        if isinstance(plain, psycopg.Connection):
            line += f" {subject.round_trips() - without.round_trips():>12}"
        print(line, flush=True)


def compare_sizes(name: str, connect: Callable[[], Any], budget: float) -> None:
    """Print how a table of a million records compares with an empty one."""
    empty, full = connect(), connect()
    for connection in (empty, full):
        prepare(connection)
    fill(full)
    small, large = medians(budget, Subject(empty, result=90), Subject(full, result=90))
    print(f"{name:>30} {small * 1e6:>19.0f} us {large * 1e6:>8.0f} us {large / small:>7.2f}", flush=True)


@contextmanager
def databases() -> Iterator[dict[str, Callable[[], Any]]]:
    """Give for each kind of database what makes one and connects to it."""
    with tempfile.TemporaryDirectory() as directory, server() as url, contextlib.ExitStack() as connections:

        def sqlite(path: str | None = None) -> Any:
            path = path or str(Path(directory) / f"{uuid.uuid4()}.db")
            return connections.enter_context(contextlib.closing(connect_sqlite(path)))

        def postgresql(settings: str = "") -> Any:
            name = f"bench_{uuid.uuid4().hex}"
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"CREATE SCHEMA {name}")
            options = f"-csearch_path={name} {settings}"
            return connections.enter_context(contextlib.closing(psycopg.connect(url, options=options)))

        yield {
            "SQLite, in memory": lambda: sqlite(":memory:"),
            "SQLite, a file": sqlite,
            "PostgreSQL": postgresql,
            "PostgreSQL, a pipeline": postgresql,
            "PostgreSQL, commit not awaited": lambda: postgresql("-csynchronous_commit=off"),
        }


def report(budget: float) -> None:
    """Print all lines.

    Args:
        budget: About how many seconds a line takes.
    """
    with databases() as found:
        print("the fence: a transaction of one update, without and with it")
        header = f"{'without':>11} {'with':>11} {'ratio':>7} {'statements':>11} {'round trips':>12}"
        print(f"{'':>41} {header}")
        for name, connect in found.items():
            compare(name, connect, budget)
        print("\nthe fence: a table of a million records, against an empty one")
        print(f"{'':>30} {'empty':>22} {'a million':>11} {'ratio':>7}")
        for name, connect in found.items():
            if "pipeline" not in name:
                compare_sizes(name, connect, budget)
