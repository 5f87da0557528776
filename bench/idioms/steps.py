"""The steps of a transfer and of an order, what undoes each, and the options that every idiom gives them.

The activities only pass on the call, to books that a provider keeps (`providers.py`). An undo gets its step's input.
"""

# No `from __future__ import annotations`: the SDK would evaluate them each time that it decodes a data class.

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

STEP = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30), retry_policy=RetryPolicy(maximum_attempts=5)
)
# Temporal's default policy: an undo is tried until it succeeds, or fails with an error that is not retryable.
UNDO = workflow.ActivityConfig(start_to_close_timeout=timedelta(seconds=30))

SETTLEMENT = timedelta(minutes=1)
PACKING = timedelta(hours=1)

Undo = tuple[Callable[[Any, Any], Awaitable[None]], Any]
"""An activity that undoes a step, and its argument."""


@dataclass(frozen=True)
class Transfer:
    """An amount to move from one account to another."""

    id: str
    source: str
    target: str
    amount: int


@dataclass(frozen=True)
class Order:
    """Goods to pay for and to ship."""

    id: str
    card: str
    product: str
    amount: int


class Books(Protocol):
    """What a provider knows of its calls."""

    def do(self, step: str, request: str) -> None:
        """Let a step take effect, once for each request."""
        ...

    def undo(self, step: str, request: str) -> None:
        """Take the effect back, once for each request."""
        ...


class Bank:
    """The activities of a transfer."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.activities: list[Callable[..., Any]] = [
            self.withdraw,
            self.return_withdrawal,
            self.deposit,
            self.reverse_deposit,
            self.record,
            self.void_record,
        ]

    @activity.defn
    async def withdraw(self, transfer: Transfer) -> None:
        self._books.do("withdraw", transfer.id)

    @activity.defn
    async def return_withdrawal(self, transfer: Transfer) -> None:
        self._books.undo("withdraw", transfer.id)

    @activity.defn
    async def deposit(self, transfer: Transfer) -> None:
        self._books.do("deposit", transfer.id)

    @activity.defn
    async def reverse_deposit(self, transfer: Transfer) -> None:
        self._books.undo("deposit", transfer.id)

    @activity.defn
    async def record(self, transfer: Transfer) -> None:
        self._books.do("record", transfer.id)

    @activity.defn
    async def void_record(self, transfer: Transfer) -> None:
        self._books.undo("record", transfer.id)


class Shop:
    """The activities of an order."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.activities: list[Callable[..., Any]] = [
            self.charge,
            self.refund,
            self.allocate,
            self.release,
            self.book_pickup,
            self.cancel_pickup,
        ]

    @activity.defn
    async def charge(self, order: Order) -> None:
        self._books.do("charge", order.id)

    @activity.defn
    async def refund(self, order: Order) -> None:
        self._books.undo("charge", order.id)

    @activity.defn
    async def allocate(self, order: Order) -> None:
        self._books.do("allocate", order.id)

    @activity.defn
    async def release(self, order: Order) -> None:
        self._books.undo("allocate", order.id)

    @activity.defn
    async def book_pickup(self, order: Order) -> None:
        self._books.do("book_pickup", order.id)

    @activity.defn
    async def cancel_pickup(self, order: Order) -> None:
        self._books.undo("book_pickup", order.id)


UNDOES = {
    "withdraw": "return_withdrawal",
    "deposit": "reverse_deposit",
    "record": "void_record",
    "charge": "refund",
    "allocate": "release",
    "book_pickup": "cancel_pickup",
}
"""The activity that undoes each step."""
