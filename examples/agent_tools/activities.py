"""The travel agency: a booking and what undoes it. One transaction each, behind the fence."""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, fence

from .models import Booking, Trip

_SCHEMA = """
CREATE TABLE IF NOT EXISTS offers (kind TEXT, name TEXT, seats INTEGER CHECK (seats >= 0), PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS log (what TEXT);
INSERT OR IGNORE INTO offers VALUES ('flight', 'Rome', 9), ('hotel', 'Plaza', 1), ('hotel', 'Astoria', 9);
"""


class Agency:
    """The activities, as methods: they share a SQLite file. They block, so run them in threads."""

    def __init__(self, path: str = ":memory:") -> None:
        """Opens the file, and fills it if it is new."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        fence.create_table(self._db)
        self._db.commit()
        self.activities: list[Callable[..., object]] = [self.book, self.cancel, self.send_tickets]

    @activity.defn
    def book(self, booking: Booking) -> None:
        """Takes a seat or a room."""

        def take() -> None:
            query = "UPDATE offers SET seats = seats - 1 WHERE kind = ? AND name = ? AND seats > 0"
            if not self._db.execute(query, (booking.kind, booking.name)).rowcount:
                raise Declined(f"{booking.kind} {booking.name} is full")

        self._once(booking, take, f"booked {booking.kind} {booking.name} for {booking.traveler}")

    @activity.defn
    def cancel(self, booking: Booking) -> None:
        """Undoes `book`."""
        query = "UPDATE offers SET seats = seats + 1 WHERE kind = ? AND name = ?"
        self._once(
            booking,
            lambda: self._db.execute(query, (booking.kind, booking.name)),
            f"canceled {booking.kind} {booking.name} for {booking.traveler}",
        )

    @activity.defn
    def send_tickets(self, trip: Trip) -> None:
        """Sends the tickets. Nothing undoes it."""
        self._once(trip, lambda: None, f"tickets for {trip.traveler}")

    def log(self) -> list[str]:
        """What was done, oldest first."""
        return [str(line) for (line,) in self.rows("SELECT what FROM log ORDER BY rowid")]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows that a query reads."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _once(self, payload: object, effect: Callable[[], object], line: str) -> None:
        def run() -> None:
            effect()
            self._db.execute("INSERT INTO log VALUES (?)", (line,))

        with self._lock, self._db:  # commits, or rolls back on an exception
            self._db.execute("BEGIN IMMEDIATE")
            fence.once(self._db, run, payload=payload)
