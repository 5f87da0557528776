"""What goes into a trip and what comes out of it."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Trip:
    """What a traveler asks the agent for, in words."""

    traveler: str
    wish: str


@dataclass(frozen=True)
class Booking:
    """What a tool call books: a flight or a hotel, by its name."""

    traveler: str
    kind: str
    name: str


class State(str, Enum):
    """How a trip stands."""

    PLANNING = "PLANNING"
    WAITS_FOR_REVIEW = "WAITS_FOR_REVIEW"
    BOOKED = "BOOKED"
    REJECTED = "REJECTED"


@dataclass(frozen=True)
class Status:
    """What the query answers and what the workflow returns."""

    state: State
    plan: str = ""
    """What the agent says that it has booked."""
