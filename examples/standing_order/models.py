"""What goes into a standing order and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass, replace

DAY = 24 * 60 * 60


@dataclass(frozen=True)
class StandingOrder:
    """What is paid at the beginning of each period. Periods are numbered from 1970 on; they last `every` seconds."""

    id: str
    debtor: str
    creditor: str
    amount: int
    every: int = DAY
    payments: int | None = None
    """How many are to be paid; None is without end."""


@dataclass(frozen=True)
class Payment:
    """One payment. The key is made of the order's id and the period."""

    key: str
    order: str
    period: int
    debtor: str
    creditor: str
    amount: int


@dataclass(frozen=True)
class Outcome:
    """What became of a period."""

    period: int
    paid: bool
    """By this run or another."""
    why: str = ""


@dataclass(frozen=True)
class LoopState:
    """How the loop stands: what its query answers, what one run hands to the next, and what it returns."""

    order: StandingOrder
    next_period: int | None = None
    """None is the next one to begin."""
    paid: int = 0
    not_paid: int = 0
    is_paused: bool = False
    is_stopped: bool = False
    latest: Outcome | None = None
    periods_per_run: int = 250

    def after(self, outcome: Outcome) -> "LoopState":
        """The state after a period."""
        return replace(
            self,
            next_period=outcome.period + 1,
            paid=self.paid + outcome.paid,
            not_paid=self.not_paid + (not outcome.paid),
            latest=outcome,
        )
