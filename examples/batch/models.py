"""What goes into a payout and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass, field

from temporal_saga import SagaState

NAMED = 20
"""So many failures are named in a summary. The rest is in the ledger: a summary must not grow with the payout."""


@dataclass(frozen=True)
class Batch:
    """Some of a payout's transfers, by number. The transfers themselves stay in the ledger: a payload has a limit."""

    payout: str
    first: int
    count: int
    leaf: int = 500
    """The most transfers that one workflow pays by itself."""
    at_once: int = 20


@dataclass(frozen=True)
class Transfer:
    """One transfer."""

    payout: str
    number: int
    account: str
    amount: int


@dataclass(frozen=True)
class Outcome:
    """How one transfer ended: with a reason if it was not paid; with its saga if it can still be taken back."""

    number: int
    reason: str | None = None
    saga: SagaState | None = None


@dataclass(frozen=True)
class Summary:
    """How a payout ended."""

    paid: int = 0
    failed: int = 0
    named: list[str] = field(default_factory=list[str])

    def __add__(self, other: "Summary") -> "Summary":
        """Both together."""
        named = (self.named + other.named)[:NAMED]
        return Summary(self.paid + other.paid, self.failed + other.failed, named)
