"""The shop's own data in SQLite: stock, carriers, shipments, and the outbox of messages."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from temporal_saga import fence

from .models import format_amount

_SCHEMA = """
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

# Seconds to wait for a lock. Less than an attempt has (5 in `presets.fast` and `presets.conflict`):
# SQLite's error says what happened, an attempt that has run out of time does not.
_PATIENCE = 3


class Store:
    """A SQLite file. Safe to share between threads and processes."""

    def __init__(self, path: str | Path) -> None:
        """Opens the file, and creates it if it is new."""
        self.path = Path(path)
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as db:
            db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
            db.executescript(_SCHEMA)
        with self.transaction() as db:
            fence.create_table(db)

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection, None, None]:
        """A transaction of its own: commits at the end, rolls back on an exception."""
        # A connection for each: activities run in threads, and sqlite3's connections are bound to
        # theirs.
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as db, db:
            # IMMEDIATE takes the write lock before the first read, so that what is read (a key, a
            # quantity) still holds when the effect is written.
            db.execute("BEGIN IMMEDIATE")
            yield db

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
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as db:
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
