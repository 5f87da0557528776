"""Two kinds of providers, by what they do with a repeat and with a call that comes in the wrong order.

*Idempotent*: a request takes effect once, and its refund too. A refund of a request that has not come finds nothing to
refund, as with most payment providers: a request that comes later takes effect.

*Fenced*: the refund of a request that has not come leaves a record, which refuses the request. With a saga the record
is that of `temporal_saga.fence`. By hand the providers keep the same record under the same kind of key.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from temporalio.exceptions import ApplicationError

from temporal_saga import fence


class Idempotent:
    """Books in memory, by request."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._undone: set[str] = set()

    def do(self, step: str, request: str) -> None:
        self._done.add(step)

    def undo(self, step: str, request: str) -> None:
        if step in self._done:
            self._undone.add(step)

    def standing(self) -> set[str]:
        """The steps whose effects stand."""
        return self._done - self._undone

    def close(self) -> None:
        """There is nothing to close."""


class Fenced:
    """Books in SQLite, with a record for each request: the effect and the record commit together."""

    _SCHEMA = """
        CREATE TABLE books (step TEXT NOT NULL, change INTEGER NOT NULL);
        CREATE TABLE requests (key TEXT PRIMARY KEY, state TEXT NOT NULL);
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript(self._SCHEMA)

    def do(self, step: str, request: str) -> None:
        with self._transaction():
            state = self._state_of(step, request)
            if state == "undone":
                raise ApplicationError(f"{step} of {request} was undone, it came too late", non_retryable=True)
            if state is None:
                self._post(step, 1)
                self._db.execute("INSERT INTO requests VALUES (?, 'applied')", (f"{request}/{step}",))

    def undo(self, step: str, request: str) -> None:
        with self._transaction():
            if self._state_of(step, request) == "applied":
                self._post(step, -1)
            self._db.execute("INSERT OR REPLACE INTO requests VALUES (?, 'undone')", (f"{request}/{step}",))

    def standing(self) -> set[str]:
        """The steps whose effects stand."""
        total: Counter[str] = Counter()
        for step, change in self._db.execute("SELECT step, change FROM books"):
            total[step] += change
        return {step for step, net in total.items() if net}

    def close(self) -> None:
        self._db.close()

    def _state_of(self, step: str, request: str) -> str | None:
        found = self._db.execute("SELECT state FROM requests WHERE key = ?", (f"{request}/{step}",)).fetchone()
        return found[0] if found else None

    def _post(self, step: str, change: int) -> None:
        self._db.execute("INSERT INTO books VALUES (?, ?)", (step, change))

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield


class FencedByTheLibrary(Fenced):
    """The same books with `temporal_saga.fence`, which knows the step by its activity."""

    def __init__(self) -> None:
        super().__init__()
        with self._transaction():
            fence.create_table(self._db)

    def do(self, step: str, request: str) -> None:
        self._once(lambda: self._post(step, 1), request)

    def undo(self, step: str, request: str) -> None:
        self._once(lambda: self._post(step, -1), request)

    def _once(self, effect: Callable[[], None], request: str) -> None:
        with self._transaction():
            fence.once(self._db, effect, payload=request)
