"""What goes into an account and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AccountData:
    """What an account is opened with, and what one run of it hands to the next."""

    owner: str
    balance: int = 0
    answers: dict[str, str] = field(default_factory=dict[str, str])
    """The answers to the latest orders, by their ids: who asks again gets the same."""
    orders_per_run: int = 500


@dataclass(frozen=True)
class Order:
    """Money to bring in from a card, or to pay out to the card. The id is the client's."""

    id: str
    card: str
    amount: int


@dataclass(frozen=True)
class Entry:
    """A line in the journal."""

    owner: str
    order: str
    amount: int
