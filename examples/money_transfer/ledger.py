"""A double-entry ledger in SQLite.

It knows nothing of Temporal. An effect is named by a key, and three things hold for it:

* It happens once: posting the same key again returns the number of the first entry.
* It is undone once, by an entry with the opposite postings.
* Once undone it stays undone: whoever posts it later is refused, even if it was undone before it
  was ever posted (a request that hung in a network and arrives after the undo).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from examples.money_transfer.models import format_amount

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name     TEXT PRIMARY KEY,
    currency TEXT NOT NULL,
    customer INTEGER NOT NULL,             -- 0: the bank's own
    frozen   INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS entries (
    number   INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,         -- of the step or of the undo that made the entry
    memo     TEXT NOT NULL,
    reverses TEXT UNIQUE REFERENCES entries (key)
);
CREATE TABLE IF NOT EXISTS postings (
    entry    INTEGER NOT NULL REFERENCES entries (number),
    account  TEXT NOT NULL REFERENCES accounts (name),
    amount   INTEGER NOT NULL CHECK (typeof(amount) = 'integer')
);
CREATE INDEX IF NOT EXISTS postings_by_account ON postings (account);
"""

_ACCOUNTS = """
SELECT name, currency, customer, frozen,
       (SELECT coalesce(sum(amount), 0) FROM postings WHERE account = name)
FROM accounts
"""


class RefusedError(Exception):
    """The bank says no: a business answer, not a fault."""


class UndoneError(Exception):
    """The effect has been undone, so it can no longer happen."""


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
    """The bank's books in a SQLite file. Safe to share between threads and processes."""

    def __init__(self, path: str | Path) -> None:
        """Opens the books, and creates them if the file is new."""
        self.path = Path(path)
        with self._connect() as db:
            db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
            db.executescript(_SCHEMA)

    def open_account(self, name: str, currency: str, balance: int = 0) -> None:
        """Opens a customer's account; to open it again changes nothing."""
        capital = f"capital {currency}"
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO accounts (name, currency, customer) VALUES (?, ?, ?)",
                [(capital, currency, 0), (in_transit(currency), currency, 0), (name, currency, 1)],
            )
            if _entry(db, f"open {name}") is None:
                postings = (Posting(capital, -balance), Posting(name, balance))
                _write(db, f"open {name}", f"open {name}", postings)

    def freeze(self, name: str, frozen: bool = True) -> None:
        """Refuses new entries on an account. What is already there can still be reversed."""
        with self._transaction() as db:
            changed = db.execute("UPDATE accounts SET frozen = ? WHERE name = ?", (frozen, name))
            if changed.rowcount == 0:
                raise LookupError(f"no account {name}")

    def post(self, key: str, memo: str, *postings: Posting) -> int:
        """Posts an entry, once for each key.

        Returns:
            The number of the entry: of the first one, if the key has been posted before.

        Raises:
            RefusedError: A customer's account lacks the money, or an account is frozen.
            UndoneError: The key has been reversed.
        """
        if sum(posting.amount for posting in postings) != 0:
            raise ValueError("the postings of an entry add up to zero")
        with self._transaction() as db:
            if _reversal(db, key) is not None:
                raise UndoneError("this step has been undone, it came too late")
            number = _entry(db, key)
            if number is None:
                for posting in postings:
                    _allow(db, posting)
                number = _write(db, key, memo, postings)
            return number

    def reverse(self, key: str, forward_key: str, memo: str) -> None:
        """Undoes what was posted under `forward_key`, once, or keeps it from being posted later.

        Neither a lack of money nor a frozen account stands in the way. An undo that the customer
        can prevent by spending the money would leave the bank with half a transfer.
        """
        with self._transaction() as db:
            if _reversal(db, forward_key) is not None:
                return
            number = _entry(db, forward_key)
            if number is None:
                # The tombstone: an entry without postings that reverses itself.
                _write(db, forward_key, f"{memo}: nothing to undo", (), reverses=forward_key)
                return
            posted = db.execute("SELECT account, amount FROM postings WHERE entry = ?", (number,))
            opposite = tuple(Posting(account, -amount) for account, amount in posted)
            _write(db, key, memo, opposite, reverses=forward_key)

    def account(self, name: str) -> Account | None:
        """The account of that name."""
        with self._connect() as db:
            return _account(db, name)

    def accounts(self) -> list[Account]:
        """All accounts, the customers' first."""
        with self._connect() as db:
            rows = db.execute(f"{_ACCOUNTS} ORDER BY customer DESC, name")
            return [_as_account(row) for row in rows]

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

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection, None, None]:
        # A connection for each use: activities run in threads, and sqlite3's connections are bound
        # to theirs. No isolation level: we say BEGIN ourselves.
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            db.execute("PRAGMA foreign_keys = ON")
            yield db
        finally:
            db.close()

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection, None, None]:
        with self._connect() as db:
            # IMMEDIATE takes the write lock before the first read, so that what is read (a balance,
            # a key) still holds when the entry is written.
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _account(db: sqlite3.Connection, name: str) -> Account | None:
    row = db.execute(f"{_ACCOUNTS} WHERE name = ?", (name,)).fetchone()
    return None if row is None else _as_account(row)


def _as_account(row: tuple[str, str, int, int, int]) -> Account:
    name, currency, customer, frozen, balance = row
    return Account(name, currency, bool(customer), bool(frozen), balance)


def _entry(db: sqlite3.Connection, key: str) -> int | None:
    row = db.execute("SELECT number FROM entries WHERE key = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def _reversal(db: sqlite3.Connection, key: str) -> int | None:
    row = db.execute("SELECT number FROM entries WHERE reverses = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def _allow(db: sqlite3.Connection, posting: Posting) -> None:
    account = _account(db, posting.account)
    if account is None:
        raise LookupError(f"no account {posting.account}")
    if account.frozen:
        raise RefusedError(f"account {account.name} is frozen")
    if account.customer and posting.amount < 0 and account.balance + posting.amount < 0:
        raise RefusedError(f"insufficient funds in account {account.name}")


def _write(
    db: sqlite3.Connection, key: str, memo: str, postings: tuple[Posting, ...], reverses: str | None = None
) -> int:
    number = db.execute("INSERT INTO entries (key, memo, reverses) VALUES (?, ?, ?)", (key, memo, reverses)).lastrowid
    assert number is not None, "an INSERT gives a row id"
    db.executemany(
        "INSERT INTO postings (entry, account, amount) VALUES (?, ?, ?)",
        [(number, account, amount) for account, amount in postings],
    )
    return number
