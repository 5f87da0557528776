"""What goes into a payment and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Order:
    """What a customer pays: a capture for each part, a parcel say."""

    id: str
    card: str
    parts: list[int]
    refund_within: float = 30 * 24 * 60 * 60
    """Seconds after the settlement."""


@dataclass(frozen=True)
class Authorization:
    """An amount to hold on a card."""

    card: str
    amount: int


@dataclass(frozen=True)
class Capture:
    """A part to take of what is held."""

    authorization: str
    amount: int


@dataclass(frozen=True)
class Refund:
    """A part to give back. Its id is the client's."""

    id: str
    amount: int


@dataclass(frozen=True)
class Payout:
    """A refund as the provider takes it."""

    key: str
    authorization: str
    amount: int


@dataclass(frozen=True)
class Finding:
    """What the provider knows of a step whose outcome we do not know."""

    step: str
    key: str
    provider_says: str


class State(str, Enum):
    """How a payment stands."""

    RUNNING = "RUNNING"
    DECLINED = "DECLINED"
    SETTLED = "SETTLED"


@dataclass(frozen=True)
class Status:
    """What the query answers and what the workflow returns."""

    state: State
    captured: int = 0
    refunded: int = 0
