"""What goes into a cart and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass, field
from enum import Enum

from temporal_saga import SagaState


@dataclass(frozen=True)
class Line:
    """So much of a product. Its id is the client's, and names the line for good."""

    id: str
    sku: str
    quantity: int = 1


@dataclass(frozen=True)
class Payment:
    """An amount to take from a card."""

    card: str
    amount: int


@dataclass(frozen=True)
class CartData:
    """What a cart is started with, and what one run of it hands to the next."""

    customer: str
    expires_after: float = 24 * 60 * 60
    """Seconds from the first run's start: so long the cart keeps goods from others."""
    changes_per_run: int = 500
    max_bytes: int = 256 * 1024
    """No more lines are taken once a run was handed more than this; the server refuses a payload of 2 MB."""
    lines: dict[str, int] = field(default_factory=dict[str, int])
    """What each line costs, by its id."""
    ids: list[str] = field(default_factory=list[str])
    """All ids that were used, those of lines taken out included."""
    checkouts: int = 0
    saga: SagaState | None = None


class State(str, Enum):
    """How a cart stands."""

    OPEN = "OPEN"
    CHECKED_OUT = "CHECKED_OUT"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True)
class CartStatus:
    """What the query answers and what the workflow returns."""

    state: State
    lines: dict[str, int]
    total: int
    state_bytes: int
    """The size of what this run was handed: the saga's state, and the ids that are used."""
