"""What goes into an onboarding and what comes out of it."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass, field
from enum import Enum

DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Signup:
    """A user who signs up. Times are in seconds, so that a demonstration need not take a week."""

    email: str
    team: str
    remind_after: float = 3 * DAY
    give_up_after: float = 7 * DAY


@dataclass(frozen=True)
class Mail:
    """A mail to send."""

    to: str
    text: str


class State(str, Enum):
    """How an onboarding stands."""

    RUNNING = "RUNNING"
    ONBOARDED = "ONBOARDED"
    REFUSED = "REFUSED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Status:
    """What the query answers and what the workflow returns."""

    state: State
    step: str
    completed: list[str] = field(default_factory=list)
