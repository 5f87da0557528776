"""The bank of the account: each step and its undo, each in one transaction with the fence."""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, fence

from .models import Entry, Order

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cards (number TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0), closed INTEGER);
CREATE TABLE IF NOT EXISTS journal (owner TEXT, order_id TEXT, amount INTEGER);
INSERT OR IGNORE INTO cards VALUES ('4242', 50000, 0), ('4000', 0, 1);
"""


class Bank:
    """The activities, as methods: they share a SQLite file. They block, so run them in threads."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and fills it if it is new."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        fence.create_table(self._db)
        self._db.commit()
        self.activities: list[Callable[..., object]] = [
            self.charge,
            self.refund,
            self.pay_out,
            self.recall,
            self.book,
            self.strike,
        ]

    @activity.defn
    def charge(self, order: Order) -> None:
        """Takes the amount from the card."""
        self._move(order, -order.amount, "balance >= :amount AND NOT closed")

    @activity.defn
    def refund(self, order: Order) -> None:
        """Undoes `charge`."""
        self._move(order, order.amount)

    @activity.defn
    def pay_out(self, order: Order) -> None:
        """Gives the amount to the card."""
        self._move(order, order.amount, "NOT closed")

    @activity.defn
    def recall(self, order: Order) -> None:
        """Undoes `pay_out`."""
        self._move(order, -order.amount)

    @activity.defn
    def book(self, entry: Entry) -> None:
        """Writes a line in the journal."""
        self._run(entry, "INSERT INTO journal VALUES (?, ?, ?)", entry.owner, entry.order, entry.amount)

    @activity.defn
    def strike(self, entry: Entry) -> None:
        """Undoes `book`, with a line that reverses the first: nothing is taken out of a journal."""
        self._run(entry, "INSERT INTO journal VALUES (?, ?, ?)", entry.owner, f"{entry.order} undone", -entry.amount)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _move(self, order: Order, amount: int, only_if: str = "TRUE") -> None:
        query = f"UPDATE cards SET balance = balance + :move WHERE number = :card AND {only_if}"

        def move() -> None:
            if not self._db.execute(query, {"move": amount, "card": order.card, "amount": order.amount}).rowcount:
                raise Declined(f"card {order.card} is declined")

        self._once(order, move)

    def _run(self, payload: object, query: str, *values: str | int) -> None:
        def run() -> None:
            self._db.execute(query, values)

        self._once(payload, run)

    def _once(self, payload: object, effect: Callable[[], None]) -> None:
        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, effect, payload=payload)
