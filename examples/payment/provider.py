"""A payment provider in small. It lives elsewhere and commits on its own, and it honors idempotency keys.

What a saga needs of a provider is here. An operation with a key happens once. It can be cancelled by its key, whether
or not it has arrived. Its key finds it.
"""

import sqlite3
import threading

from temporal_saga import Declined, Rejected

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cards (number TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0));
CREATE TABLE IF NOT EXISTS operations (key TEXT PRIMARY KEY, kind TEXT, source TEXT, amount INTEGER, state TEXT);
INSERT OR IGNORE INTO cards VALUES ('4242', 50000), ('4000', 0);
"""


class ReplyLost(Exception):
    """The operation may have taken place: nobody knows."""


class Provider:
    """Cards, and operations by key. An operation is done, or cancelled, or void: cancelled before it came."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and fills it if it is new."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self.lost_replies = 0
        """How many replies to captures will be lost."""

    def authorize(self, key: str, card: str, amount: int) -> None:
        """Holds an amount on a card."""
        with self._lock, self._db:
            if self._is_done(key):
                return
            hold = "UPDATE cards SET balance = balance - ? WHERE number = ? AND balance >= ?"
            if not self._db.execute(hold, (amount, card, amount)).rowcount:
                raise Declined(f"card {card} is declined")
            self._insert(key, "authorize", card, amount)

    def capture(self, key: str, authorization: str, amount: int) -> None:
        """Takes a part of what is held."""
        with self._lock, self._db:
            if not self._is_done(key):
                if self._left(authorization) < amount:
                    raise Rejected("no authorization for that amount")
                self._insert(key, "capture", authorization, amount)
        if self.lost_replies:
            self.lost_replies -= 1
            raise ReplyLost

    def settle(self, key: str, authorization: str) -> None:
        """Pays out what was captured, and lets go of the rest."""
        with self._lock, self._db:
            if not self._is_done(key):
                rest = self._left(authorization)
                self._insert(key, "settle", authorization, rest)
                self._give_back(authorization, rest)

    def refund(self, key: str, authorization: str, amount: int) -> None:
        """Gives back a part of what was captured."""
        with self._lock, self._db:
            if not self._is_done(key):
                self._insert(key, "refund", authorization, amount)
                self._give_back(authorization, amount)

    def cancel(self, key: str) -> None:
        """Cancels an authorization or a capture by its key; one that has not come yet will be refused."""
        with self._lock, self._db:
            mark = "UPDATE operations SET state = 'cancelled' WHERE key = ? AND state = 'done' RETURNING kind, amount"
            for kind, amount in self._db.execute(mark, (key,)).fetchall():
                if kind == "authorize":
                    self._give_back(key, amount)
            self._db.execute("INSERT OR IGNORE INTO operations VALUES (?, NULL, NULL, 0, 'void')", (key,))

    def find(self, key: str) -> str:
        """The outcome of an operation."""
        found = self.rows("SELECT kind || ' of ' || amount || ': ' || state FROM operations WHERE key = ?", key)
        return str(found[0][0]) if found else "nothing under that key"

    def rows(self, query: str, *values: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _is_done(self, key: str) -> bool:
        self._db.execute("BEGIN IMMEDIATE")
        found = self._db.execute("SELECT state FROM operations WHERE key = ?", (key,)).fetchone()
        if found is not None and found[0] != "done":
            raise Declined("it was cancelled before it came")
        return found is not None

    def _left(self, authorization: str) -> int:
        query = """SELECT total(amount * CASE kind WHEN 'authorize' THEN 1 ELSE -1 END) FROM operations
                   WHERE state = 'done' AND (key = ? OR source = ? AND kind IN ('capture', 'settle'))"""
        return int(self._db.execute(query, (authorization, authorization)).fetchone()[0])

    def _give_back(self, authorization: str, amount: int) -> None:
        query = "UPDATE cards SET balance = balance + ? WHERE number = (SELECT source FROM operations WHERE key = ?)"
        self._db.execute(query, (amount, authorization))

    def _insert(self, key: str, kind: str, source: str, amount: int) -> None:
        self._db.execute("INSERT INTO operations VALUES (?, ?, ?, ?, 'done')", (key, kind, source, amount))
