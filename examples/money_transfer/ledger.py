"""A double-entry ledger, in a SQLite file or on PostgreSQL.

An entry is made in the caller's transaction, so that whatever else the caller writes is committed
with it (`activities.py`: that the entry has been made).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from temporal_saga import Declined, fence

from .database import Connection, open_database, run
from .models import format_amount

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name     TEXT PRIMARY KEY,
    currency TEXT NOT NULL,
    customer BOOLEAN NOT NULL,             -- FALSE: the bank's own
    frozen   BOOLEAN NOT NULL DEFAULT FALSE,
    balance  BIGINT NOT NULL DEFAULT 0     -- the sum of its postings
);
CREATE TABLE IF NOT EXISTS entries (
    number   {serial},
    key      TEXT NOT NULL UNIQUE,         -- of the step or of the undo that made the entry
    memo     TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS postings (
    entry    BIGINT NOT NULL REFERENCES entries (number),
    account  TEXT NOT NULL REFERENCES accounts (name),
    amount   BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS postings_by_entry ON postings (entry)
"""

_ACCOUNTS = "SELECT name, currency, customer, frozen, balance FROM accounts"


class Posting(NamedTuple):
    """A change of one account, in minor units: credits are positive, debits negative."""

    account: str
    amount: int


@dataclass(frozen=True)
class Account:
    """An account and its balance, in minor units."""

    name: str
    currency: str
    customer: bool
    frozen: bool
    balance: int


def in_transit(currency: str) -> str:
    """The bank's account that holds money between a withdrawal and its deposit."""
    return f"in transit {currency}"


class Ledger:
    """The bank's books. Safe to share between threads and processes."""

    def __init__(self, where: str | Path) -> None:
        """Opens the books, and creates them if there are none.

        Args:
            where: A SQLite file, or `postgresql://...`.

        Raises:
            ValueError: There is no such database.
        """
        database = open_database(where)
        self.where = database.name
        self.transaction = database.transaction
        with self.transaction() as db:
            fence.create_table(db)
            for statement in _SCHEMA.format(serial=database.serial).split(";"):
                run(db, statement)

    def open_account(self, name: str, currency: str, balance: int = 0) -> None:
        """Opens a customer's account; to open it again changes nothing."""
        capital = f"capital {currency}"
        add = "INSERT INTO accounts (name, currency, customer) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        with self.transaction() as db:
            run(db, add, capital, currency, False)
            run(db, add, in_transit(currency), currency, False)
            if run(db, add, name, currency, True).rowcount:
                _write(db, f"open {name}", f"open {name}", [Posting(capital, -balance), Posting(name, balance)])

    def freeze(self, name: str, frozen: bool = True) -> None:
        """Refuses new entries on an account. What is already there can still be reversed."""
        with self.transaction() as db:
            if not run(db, "UPDATE accounts SET frozen = ? WHERE name = ?", frozen, name).rowcount:
                raise LookupError(f"no account {name}")

    def post(self, db: Connection, key: str, memo: str, *postings: Posting) -> int:
        """Posts an entry, and returns its number.

        Raises:
            Declined: A customer's account lacks the money, or an account is frozen.
        """
        if sum(posting.amount for posting in postings) != 0:
            raise ValueError("the postings of an entry add up to zero")
        number = _write(db, key, memo, postings)
        # After the entry, which has locked the accounts: what is read now holds until the commit.
        for name, amount in postings:
            account = _account(db, name)
            assert account is not None, "the posting refers to it"
            if account.frozen:
                raise Declined(f"account {name} is frozen")
            if account.customer and amount < 0 and account.balance < 0:
                raise Declined(f"insufficient funds in account {name}")
        return number

    def reverse(self, db: Connection, done: str, key: str, memo: str) -> None:
        """Posts the opposite of the entry whose key is `done`.

        Neither a lack of money nor a frozen account stands in the way. An undo that the customer
        can prevent by spending the money would leave the bank with half a transfer.
        """
        posted = run(db, "SELECT account, -amount FROM postings JOIN entries ON number = entry WHERE key = ?", done)
        _write(db, key, memo, [Posting(*opposite) for opposite in posted])

    def account(self, name: str) -> Account | None:
        """The account of that name."""
        with self.transaction() as db:
            return _account(db, name)

    def accounts(self) -> list[Account]:
        """All accounts, the customers' first."""
        with self.transaction() as db:
            return [Account(*row) for row in run(db, f"{_ACCOUNTS} ORDER BY customer DESC, name")]

    def total(self, currency: str) -> int:
        """What the customers own between them. A transfer leaves it as it was."""
        return sum(a.balance for a in self.accounts() if a.customer and a.currency == currency)

    def table(self) -> str:
        """The balances as text: customers, money in transit, and the customers' total."""
        lines: list[str] = []
        for account in self.accounts():
            if account.customer or account.name == in_transit(account.currency):
                amount = format_amount(account.balance, account.currency)
                note = "  frozen" if account.frozen else ""
                lines.append(f"{account.name:<20}{amount:>20}{note}")
        for currency in sorted({account.currency for account in self.accounts()}):
            total = format_amount(self.total(currency), currency)
            lines.append(f"{'customers own':<20}{total:>20}")
        return "\n".join(lines)


def _account(db: Connection, name: str) -> Account | None:
    row = run(db, f"{_ACCOUNTS} WHERE name = ?", name).fetchone()
    return None if row is None else Account(*row)


def _write(db: Connection, key: str, memo: str, postings: Sequence[Posting]) -> int:
    run(db, "INSERT INTO entries (key, memo) VALUES (?, ?)", key, memo)
    (number,) = run(db, "SELECT number FROM entries WHERE key = ?", key).fetchone()
    # Sorted: two entries that lock the same accounts in different order would wait for each other.
    for account, amount in sorted(postings):
        run(db, "UPDATE accounts SET balance = balance + ? WHERE name = ?", amount, account)
        run(db, "INSERT INTO postings (entry, account, amount) VALUES (?, ?, ?)", number, account, amount)
    return int(number)
