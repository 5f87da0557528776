"""The shop of the cart: each step and its undo, each in one transaction with the fence."""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, fence

from .models import Line, Payment

_SCHEMA = """
CREATE TABLE IF NOT EXISTS products (sku TEXT PRIMARY KEY, price INTEGER, on_hand INTEGER CHECK (on_hand >= 0));
CREATE TABLE IF NOT EXISTS cards (number TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0));
CREATE TABLE IF NOT EXISTS parcels (customer TEXT, lines TEXT);
INSERT OR IGNORE INTO products VALUES ('teapot', 2490, 5), ('cup', 650, 20);
INSERT OR IGNORE INTO cards VALUES ('4242', 50000), ('4000', 0);
"""


class Shop:
    """The activities, as methods: they share a SQLite file. They block, so run them in threads."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and fills it if it is new."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        fence.create_table(self._db)
        self._db.commit()
        self.activities: list[Callable[..., object]] = [self.reserve, self.release, self.pay, self.refund, self.ship]

    @activity.defn
    def reserve(self, line: Line) -> int:
        """Keeps goods for the customer, and returns what they cost."""

        def take() -> int:
            query = "UPDATE products SET on_hand = on_hand - ? WHERE sku = ? AND on_hand >= ? RETURNING price"
            prices = self._db.execute(query, (line.quantity, line.sku, line.quantity)).fetchall()
            if not prices:
                raise Declined(f"{line.sku} is out of stock")
            return int(prices[0][0]) * line.quantity

        return self._once(line, take) or 0

    @activity.defn
    def release(self, line: Line) -> None:
        """Undoes `reserve`."""
        self._update(line, "UPDATE products SET on_hand = on_hand + ? WHERE sku = ?", line.quantity, line.sku)

    @activity.defn
    def pay(self, payment: Payment) -> None:
        """Takes the money."""

        def take() -> None:
            query = "UPDATE cards SET balance = balance - ? WHERE number = ? AND balance >= ?"
            if not self._db.execute(query, (payment.amount, payment.card, payment.amount)).rowcount:
                raise Declined(f"card {payment.card} is declined")

        self._once(payment, take)

    @activity.defn
    def refund(self, payment: Payment) -> None:
        """Undoes `pay`."""
        self._update(payment, "UPDATE cards SET balance = balance + ? WHERE number = ?", payment.amount, payment.card)

    @activity.defn
    def ship(self, customer: str, lines: list[str]) -> None:
        """Sends the goods. Nothing undoes it."""
        self._update([customer, lines], "INSERT INTO parcels VALUES (?, ?)", customer, " ".join(lines))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _update(self, payload: object, query: str, *values: str | int) -> None:
        def run() -> None:
            self._db.execute(query, values)

        self._once(payload, run)

    def _once(self, payload: object, effect: Callable[[], int | None]) -> int | None:
        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            return fence.once(self._db, effect, payload=payload)
