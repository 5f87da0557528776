"""The bank: each step of a payment, and what undoes it. One transaction each, behind the fence."""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, fence

from .models import Payment

# The key is what makes a period paid once: a second claim breaks the constraint, whoever makes it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0));
CREATE TABLE IF NOT EXISTS periods (key TEXT PRIMARY KEY, standing_order TEXT, period INTEGER, amount INTEGER);
INSERT OR IGNORE INTO accounts VALUES ('ann', 100000), ('landlord', 0), ('gym', 0);
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
            self.claim_period,
            self.release_period,
            self.debit,
            self.return_debit,
            self.credit,
            self.reverse_credit,
        ]

    @activity.defn
    def claim_period(self, payment: Payment) -> None:
        """Takes the period for this payment: one that was taken before is not paid again."""

        def claim() -> None:
            try:
                row = (payment.key, payment.order, payment.period, payment.amount)
                self._db.execute("INSERT INTO periods VALUES (?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise Declined("paid before") from None

        self._once(payment, claim)

    @activity.defn
    def release_period(self, payment: Payment) -> None:
        """Undoes `claim_period`: the period may be paid by another payment."""
        self._once(payment, lambda: self._db.execute("DELETE FROM periods WHERE key = ?", (payment.key,)))

    @activity.defn
    def debit(self, payment: Payment) -> None:
        """Takes the amount from the debtor."""

        def take() -> None:
            query = "UPDATE accounts SET balance = balance - ? WHERE name = ? AND balance >= ?"
            if not self._db.execute(query, (payment.amount, payment.debtor, payment.amount)).rowcount:
                raise Declined(f"{payment.debtor} has no {payment.amount}")

        self._once(payment, take)

    @activity.defn
    def return_debit(self, payment: Payment) -> None:
        """Undoes `debit`."""
        self._once(payment, lambda: self._add(payment.debtor, payment.amount))

    @activity.defn
    def credit(self, payment: Payment) -> None:
        """Gives the amount to the creditor."""
        self._once(payment, lambda: self._add(payment.creditor, payment.amount))

    @activity.defn
    def reverse_credit(self, payment: Payment) -> None:
        """Undoes `credit`."""
        self._once(payment, lambda: self._add(payment.creditor, -payment.amount))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _add(self, account: str, amount: int) -> None:
        change = "UPDATE accounts SET balance = balance + ? WHERE name = ?"
        if not self._db.execute(change, (amount, account)).rowcount:
            raise Declined(f"account {account} does not exist")

    def _once(self, payment: Payment, effect: Callable[[], object]) -> None:
        def run() -> None:
            effect()  # what it returns is not kept

        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, run, payload=payment)
