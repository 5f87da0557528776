"""The ledger: each step of a transfer and its undo, each in one transaction with the fence."""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, business_key, fence

from .models import Batch, Summary, Transfer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER, closed INTEGER);
CREATE TABLE IF NOT EXISTS transfers (payout TEXT, number INTEGER, account TEXT, amount INTEGER);
CREATE TABLE IF NOT EXISTS messages (text TEXT);
CREATE INDEX IF NOT EXISTS by_number ON transfers (payout, number);
"""


class Ledger:
    """The activities, as methods: they share a SQLite file. They block, so run them in threads."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and makes its tables if they are missing."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        fence.create_table(self._db)
        self._db.commit()
        self.activities: list[Callable[..., object]] = [
            self.load,
            self.debit,
            self.return_debit,
            self.credit,
            self.reverse_credit,
            self.tell_admin,
        ]

    def prepare(self, payout: str, count: int, closed_every: int = 20) -> None:
        """Writes down a payout of 1.00 for each of so many accounts. Every so many of these are closed."""
        with self._lock, self._db:
            self._db.execute("INSERT OR IGNORE INTO accounts VALUES ('funds', 0, 0)")
            self._db.execute("UPDATE accounts SET balance = balance + ? WHERE name = 'funds'", (100 * count,))
            for number in range(count):
                account = f"{payout}-{number}"
                closed = number % closed_every == closed_every - 1
                self._db.execute("INSERT INTO accounts VALUES (?, 0, ?)", (account, closed))
                self._db.execute("INSERT INTO transfers VALUES (?, ?, ?, 100)", (payout, number, account))

    @activity.defn
    def load(self, batch: Batch) -> list[Transfer]:
        """Reads the transfers of a batch."""
        query = "SELECT * FROM transfers WHERE payout = ? AND number >= ? AND number < ? ORDER BY number"
        with self._lock:
            found = self._db.execute(query, (batch.payout, batch.first, batch.first + batch.count))
            return [Transfer(*row) for row in found]

    @activity.defn
    def debit(self, transfer: Transfer) -> None:
        """Takes the money out of the funds."""
        self._move(transfer, "funds", -transfer.amount, only_if="balance >= :amount")

    @activity.defn
    def return_debit(self, transfer: Transfer) -> None:
        """Undoes `debit`."""
        self._move(transfer, "funds", transfer.amount)

    @activity.defn
    def credit(self, transfer: Transfer) -> None:
        """Gives it to the account."""
        self._move(transfer, transfer.account, transfer.amount, only_if="NOT closed")

    @activity.defn
    def reverse_credit(self, transfer: Transfer) -> None:
        """Undoes `credit`, also if the account has been closed since, or emptied: an undo must not be refused."""
        self._move(transfer, transfer.account, -transfer.amount)

    @activity.defn
    def tell_admin(self, payout: str, summary: Summary) -> None:
        """Tells the admin what was not paid, once for each payout."""
        text = f"{payout}: {summary.paid} paid, {summary.failed} failed: {', '.join(summary.named)}"

        def send() -> None:
            self._db.execute("INSERT INTO messages VALUES (?)", (text,))

        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, send, payload=text, key=business_key("payout", payout))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _move(self, transfer: Transfer, account: str, amount: int, only_if: str = "TRUE") -> None:
        def move() -> None:
            query = f"UPDATE accounts SET balance = balance + :move WHERE name = :account AND {only_if}"
            values = {"move": amount, "account": account, "amount": transfer.amount}
            if not self._db.execute(query, values).rowcount:
                raise Declined(f"{account} is closed, or has not enough")

        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, move, payload=transfer)
