"""The steps of a payment and what undoes each. The provider honors the step's key; our own books are fenced."""

import sqlite3
import threading
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Parked, current_step, fence

from .models import Authorization, Capture, Payout
from .provider import Provider


class Cashier:
    """The activities, as methods. They block, so run them in threads."""

    def __init__(self, provider: Provider, path: str = ":memory:") -> None:
        """Keeps the provider, and opens the books."""
        self.provider = provider
        self._lock = threading.Lock()
        self._books = sqlite3.connect(path, check_same_thread=False)
        self._books.execute("CREATE TABLE IF NOT EXISTS refunds (key TEXT, amount INTEGER)")
        fence.create_table(self._books)
        self._books.commit()
        self.activities: list[Callable[..., object]] = [
            self.authorize,
            self.cancel,
            self.capture,
            self.settle,
            self.refund,
            self.look_up,
            self.page_somebody,
        ]

    @activity.defn
    def authorize(self, order: Authorization) -> str:
        """Holds the money, and returns the authorization: it goes by the step's key."""
        key = current_step().key
        self.provider.authorize(key, order.card, order.amount)
        return key

    @activity.defn
    def capture(self, capture: Capture) -> None:
        """Takes a part of what is held."""
        self.provider.capture(current_step().key, capture.authorization, capture.amount)

    @activity.defn
    def cancel(self, step: Authorization | Capture) -> None:
        """Undoes an authorization, or a capture: the provider needs the key only."""
        key = current_step().forward_key
        assert key is not None, "armed with its step, so it has the step's key"
        self.provider.cancel(key)

    @activity.defn
    def settle(self, authorization: str) -> None:
        """Pays out. Nothing undoes it."""
        self.provider.settle(current_step().key, authorization)

    @activity.defn
    def refund(self, payout: Payout) -> None:
        """Gives a part back, once for each key: at the provider, and in our books."""
        self.provider.refund(payout.key, payout.authorization, payout.amount)

        def book() -> None:
            self._books.execute("INSERT INTO refunds VALUES (?, ?)", (payout.key, payout.amount))

        with self._lock, self._books:  # commits, or rolls back on an exception
            self._books.execute("BEGIN IMMEDIATE")
            fence.once(self._books, book, payload=payout, key=payout.key)

    @activity.defn
    def look_up(self, key: str) -> str:
        """Asks the provider for the outcome of a step."""
        return self.provider.find(key)

    @activity.defn
    def page_somebody(self, parked: Parked) -> None:
        """Tells a person that something waits."""
        activity.logger.warning("%s %s waits for a person (key %s)", parked.saga, parked.step, parked.key)

    def booked(self) -> list[int]:
        """The refunds in our books."""
        with self._lock:
            return [amount for (amount,) in self._books.execute("SELECT amount FROM refunds ORDER BY rowid")]

    def close(self) -> None:
        """Closes the books and the provider's file."""
        self._books.close()
        self.provider.close()
