"""The shop's own data in SQLite: stock, carriers, shipments, and the outbox of messages.

It knows nothing of Temporal. An effect is named by a key, and three things hold for it:

* It happens once: `apply` with the same key again returns the first result.
* It is undone once, and only if it happened.
* Once undone it stays undone: whoever applies it later is refused, even if it was undone before it
  ever happened (a slow attempt that lands after its own undo).

They hold because the record of the effect is written in the same transaction as the effect itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from examples.order.models import format_amount

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    key      TEXT PRIMARY KEY,             -- of the step that has the effect
    undone   INTEGER NOT NULL DEFAULT 0,
    result   TEXT NOT NULL DEFAULT 'null'  -- JSON
);
CREATE TABLE IF NOT EXISTS products (
    sku      TEXT PRIMARY KEY,
    price    INTEGER NOT NULL,
    on_hand  INTEGER NOT NULL CHECK (on_hand >= 0)
);
CREATE TABLE IF NOT EXISTS carriers (
    name     TEXT PRIMARY KEY,
    pickups  INTEGER NOT NULL CHECK (pickups >= 0),
    labels   INTEGER NOT NULL CHECK (labels >= 0)
);
CREATE TABLE IF NOT EXISTS shipments (
    order_id        TEXT PRIMARY KEY,
    tracking_number TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS outbox (
    key       TEXT PRIMARY KEY,
    channel   TEXT NOT NULL,               -- mail, warehouse or support
    recipient TEXT NOT NULL,
    text      TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS cards (
    number   TEXT PRIMARY KEY,
    balance  INTEGER NOT NULL CHECK (balance >= 0)
);
CREATE TABLE IF NOT EXISTS payments (
    key      TEXT PRIMARY KEY,             -- the caller's idempotency key
    card     TEXT NOT NULL,
    amount   INTEGER NOT NULL,
    state    TEXT NOT NULL                 -- charged, refunded, or void: refunded before it came
);
"""


class UndoneError(Exception):
    """The effect has been undone, so it can no longer happen."""


class Store:
    """A SQLite file. Safe to share between threads and processes."""

    def __init__(self, path: str | Path) -> None:
        """Opens the file, and creates it if it is new."""
        self.path = Path(path)
        with closing(sqlite3.connect(self.path, timeout=10)) as db:
            db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
            db.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection, None, None]:
        """A transaction of its own: commits at the end, rolls back on an exception."""
        # A connection for each: activities run in threads, and sqlite3's connections are bound to
        # theirs. `timeout` is SQLite's busy_timeout.
        with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as db, db:
            # IMMEDIATE takes the write lock before the first read, so that what is read (a key, a
            # quantity) still holds when the effect is written.
            db.execute("BEGIN IMMEDIATE")
            yield db

    def apply(self, key: str, effect: Callable[[sqlite3.Connection], T]) -> T:
        """Lets an effect happen, once for each key.

        Args:
            key: What names the effect.
            effect: Does the work, in the transaction that also records it. Returns JSON.

        Returns:
            What `effect` returned, the first time.

        Raises:
            UndoneError: The effect has been undone.
        """
        with self.transaction() as db:
            select = "SELECT undone, result FROM effects WHERE key = ?"
            row = db.execute(select, (key,)).fetchone()
            if row is None:
                result = effect(db)
                insert = "INSERT INTO effects (key, result) VALUES (?, ?)"
                db.execute(insert, (key, json.dumps(result)))
            elif row[0]:
                raise UndoneError("this step has been undone, it came too late")
            else:
                result = json.loads(row[1])
        return result

    def undo(self, key: str, undo: Callable[[sqlite3.Connection], object]) -> None:
        """Undoes an effect, once, if it happened; and keeps it from happening later.

        Args:
            key: What names the effect.
            undo: Does the work, in the transaction that also records it.
        """
        with self.transaction() as db:
            # No row changes if the effect never happened, or has been undone before.
            update = "UPDATE effects SET undone = 1 WHERE key = ? AND NOT undone"
            if db.execute(update, (key,)).rowcount:
                undo(db)
            else:
                # Never happened: this row is the tombstone that refuses it.
                db.execute("INSERT OR IGNORE INTO effects (key, undone) VALUES (?, 1)", (key,))

    def add_product(self, sku: str, price: int, on_hand: int) -> None:
        """Adds a product, or sets its price and stock."""
        self._put("products", sku, price, on_hand)

    def add_carrier(self, name: str, pickups: int, labels: int) -> None:
        """Adds a carrier, or sets how many pickups and labels it has left."""
        self._put("carriers", name, pickups, labels)

    def add_card(self, number: str, balance: int) -> None:
        """Adds a card at the payment provider, or sets its balance."""
        self._put("cards", number, balance)

    def add_samples(self) -> None:
        """Fills an empty shop: two products, two carriers, a card with money and one without."""
        if self.rows("SELECT 1 FROM products"):
            return
        self.add_product("teapot", price=24_90, on_hand=5)
        self.add_product("cup", price=6_50, on_hand=20)
        self.add_carrier("swift", pickups=10, labels=10)
        self.add_carrier("post", pickups=10, labels=10)
        self.add_card("4242", balance=500_00)
        self.add_card("4000", balance=0)

    def rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        """The rows that a query reads."""
        with closing(sqlite3.connect(self.path, timeout=10)) as db:
            return db.execute(query, values).fetchall()

    def table(self) -> str:
        """Stock, money and messages as text."""
        lines: list[str] = []
        for sku, on_hand in self.rows("SELECT sku, on_hand FROM products ORDER BY sku"):
            lines.append(f"{'on the shelf: ' + sku:<30}{on_hand:>12}")
        for card, balance in self.rows("SELECT number, balance FROM cards ORDER BY number"):
            lines.append(f"{'on card ' + card:<30}{format_amount(balance):>12}")
        paid = self.rows("SELECT sum(amount) FROM payments WHERE state = 'charged'")[0][0] or 0
        lines.append(f"{'paid to the shop':<30}{format_amount(paid):>12}")
        outbox = "SELECT channel, recipient, text FROM outbox ORDER BY rowid"
        for channel, to, text in self.rows(outbox):
            lines.append(f"{channel} to {to}: {text}")
        return "\n".join(lines)

    def _put(self, table: str, *values: str | int) -> None:
        marks = ", ".join("?" for _ in values)
        with self.transaction() as db:
            db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)
