"""The steps of an onboarding and what undoes each. A step and its undo get the same input.

Each is one transaction, which does the work and leaves the fence's record of it: a repeat changes nothing, an undo
that finds no record of its step does nothing, and a step that comes after its undo is refused.
"""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, fence

from .models import Mail, Signup

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (email TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS workspaces (team TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS roles (email TEXT, team TEXT, PRIMARY KEY (email, team));
CREATE TABLE IF NOT EXISTS mails (recipient TEXT, text TEXT);
"""


class Office:
    """The activities, as methods: they share a SQLite file. They block, so run them in threads."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and makes its tables if they are missing."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        fence.create_table(self._db)
        self._db.commit()
        self.activities: list[Callable[..., object]] = [
            self.create_account,
            self.delete_account,
            self.create_workspace,
            self.delete_workspace,
            self.grant_role,
            self.revoke_role,
            self.send,
        ]

    @activity.defn
    def create_account(self, signup: Signup) -> None:
        """Makes the account; an address has one."""

        def create() -> None:
            try:
                self._db.execute("INSERT INTO accounts VALUES (?)", (signup.email,))
            except sqlite3.IntegrityError:
                raise Declined(f"{signup.email} has an account") from None

        self._once(signup, create)

    @activity.defn
    def delete_account(self, signup: Signup) -> None:
        """Undoes `create_account`."""
        self._once(signup, lambda: self._db.execute("DELETE FROM accounts WHERE email = ?", (signup.email,)))

    @activity.defn
    def create_workspace(self, signup: Signup) -> None:
        """Makes a workspace for the user's team."""

        def create() -> None:
            try:
                self._db.execute("INSERT INTO workspaces VALUES (?)", (signup.team,))
            except sqlite3.IntegrityError:
                raise Declined(f"there is a team {signup.team}") from None

        self._once(signup, create)

    @activity.defn
    def delete_workspace(self, signup: Signup) -> None:
        """Undoes `create_workspace`."""
        self._once(signup, lambda: self._db.execute("DELETE FROM workspaces WHERE team = ?", (signup.team,)))

    @activity.defn
    def grant_role(self, signup: Signup) -> None:
        """Makes the user the owner of the workspace."""
        self._once(signup, lambda: self._db.execute("INSERT INTO roles VALUES (?, ?)", (signup.email, signup.team)))

    @activity.defn
    def revoke_role(self, signup: Signup) -> None:
        """Undoes `grant_role`."""
        mine = "DELETE FROM roles WHERE email = ? AND team = ?"
        self._once(signup, lambda: self._db.execute(mine, (signup.email, signup.team)))

    @activity.defn
    def send(self, mail: Mail) -> None:
        """Sends a mail, once for each step. A mail cannot be unsent, so nothing undoes this."""
        self._once(mail, lambda: self._db.execute("INSERT INTO mails VALUES (?, ?)", (mail.to, mail.text)))

    def count(self, table: str) -> int:
        """How many rows there are."""
        with self._lock:
            return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def mails(self) -> list[str]:
        """The mails that were sent, oldest first."""
        with self._lock:
            return [f"{to}: {text}" for to, text in self._db.execute("SELECT * FROM mails ORDER BY rowid")]

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _once(self, payload: object, effect: Callable[[], object]) -> None:
        def run() -> None:
            effect()  # what it returns is not kept

        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, run, payload=payload)
