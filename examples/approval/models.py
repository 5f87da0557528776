"""What goes into a purchase and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass
from enum import Enum

DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Purchase:
    """What a team wants to buy. Times are in seconds, so that a demonstration need not take days."""

    id: str
    team: str
    item: str
    amount: int
    remind_after: float = DAY
    give_up_after: float = 3 * DAY


@dataclass(frozen=True)
class Answer:
    """What a person says."""

    approved: bool
    by: str


class State(str, Enum):
    """How a purchase stands."""

    WAITS_FOR_MANAGER = "WAITS_FOR_MANAGER"
    WAITS_FOR_FINANCE = "WAITS_FOR_FINANCE"
    ORDERED = "ORDERED"
    REJECTED = "REJECTED"
    NO_ANSWER = "NO_ANSWER"


@dataclass(frozen=True)
class Status:
    """What the query answers and what the workflow returns."""

    state: State
    by: str = ""
    """Who has rejected it, or has not answered."""
