"""The steps of a purchase and what undoes each. Each is one transaction in our database, behind the fence.

`await_answer` does not wait in a thread. It puts its task token in the ticket, and leaves its completion to the
webhook.
"""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, current_step, fence

from .models import Answer, Purchase

_SCHEMA = """
CREATE TABLE IF NOT EXISTS budgets (team TEXT PRIMARY KEY, remaining INTEGER CHECK (remaining >= 0));
CREATE TABLE IF NOT EXISTS tickets (id TEXT PRIMARY KEY, purchase TEXT, state TEXT, who TEXT, token BLOB, asked INT);
CREATE TABLE IF NOT EXISTS orders (purchase TEXT PRIMARY KEY, item TEXT);
INSERT OR IGNORE INTO budgets VALUES ('anvils', 500000);
"""


class Desk:
    """The activities, as methods: they share a SQLite file. They block, so run them in threads."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and fills it if it is new."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        fence.create_table(self._db)
        self._db.commit()
        self.activities: list[Callable[..., object]] = [
            self.reserve_budget,
            self.release_budget,
            self.open_ticket,
            self.withdraw_ticket,
            self.await_answer,
            self.place_order,
        ]

    @activity.defn
    def reserve_budget(self, purchase: Purchase) -> None:
        """Sets the amount aside."""

        def reserve() -> None:
            take = "UPDATE budgets SET remaining = remaining - ? WHERE team = ? AND remaining >= ?"
            if not self._db.execute(take, (purchase.amount, purchase.team, purchase.amount)).rowcount:
                raise Declined(f"the budget of {purchase.team} does not cover {purchase.amount}")

        self._once(purchase, reserve)

    @activity.defn
    def release_budget(self, purchase: Purchase) -> None:
        """Undoes `reserve_budget`."""
        give = "UPDATE budgets SET remaining = remaining + ? WHERE team = ?"
        self._once(purchase, lambda: self._db.execute(give, (purchase.amount, purchase.team)))

    @activity.defn
    def open_ticket(self, purchase: Purchase) -> str:
        """Opens a ticket for finance. It goes by the step's key."""
        ticket = current_step().key
        insert = "INSERT INTO tickets VALUES (?, ?, 'open', '', NULL, 0)"
        self._once(purchase, lambda: self._db.execute(insert, (ticket, purchase.id)))
        return ticket

    @activity.defn
    def withdraw_ticket(self, purchase: Purchase) -> None:
        """Undoes `open_ticket`. The key finds the ticket, so that this needs no result."""
        withdraw = "UPDATE tickets SET state = 'withdrawn' WHERE id = ? AND state <> 'rejected'"
        self._once(purchase, lambda: self._db.execute(withdraw, (current_step().forward_key,)))

    @activity.defn
    def await_answer(self, ticket: str) -> Answer:
        """Reminds finance, and puts this attempt's task token in the ticket: that of the attempt before is void."""
        remind = "UPDATE tickets SET token = ?, asked = asked + 1 WHERE id = ? RETURNING state, who"
        with self._lock, self._db:
            ((state, who),) = self._db.execute(remind, (activity.info().task_token, ticket)).fetchall()
        if state == "withdrawn":
            raise Declined("the ticket was withdrawn")
        if state == "open":
            activity.raise_complete_async()
        return Answer(state == "approved", who)  # given while no attempt ran

    @activity.defn
    def place_order(self, purchase: Purchase) -> None:
        """Orders it. Nothing undoes it."""
        order = "INSERT INTO orders VALUES (?, ?)"
        self._once(purchase, lambda: self._db.execute(order, (purchase.id, purchase.item)))

    # --- for the webhook ---

    def record(self, ticket: str, answer: Answer) -> tuple[str, bytes | None]:
        """Writes an answer down, unless there is one; returns the ticket's state and the latest task token, if any."""
        state = "approved" if answer.approved else "rejected"
        with self._lock, self._db:
            write = "UPDATE tickets SET state = ?, who = ? WHERE id = ? AND state = 'open'"
            self._db.execute(write, (state, answer.by, ticket))
            found = self._db.execute("SELECT state, token FROM tickets WHERE id = ?", (ticket,)).fetchone()
        if found is None:
            raise LookupError(ticket)
        said, token = found
        return said, token

    def open_tickets(self) -> list[str]:
        """The tickets that finance has to answer."""
        return [str(id) for (id,) in self.rows("SELECT id FROM tickets WHERE state = 'open' ORDER BY rowid")]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _once(self, payload: object, effect: Callable[[], object]) -> None:
        def run() -> None:
            effect()  # what it returns is not kept

        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, run, payload=payload)
