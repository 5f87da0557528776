"""What goes into a transfer and what comes out of it. Amounts are integers in minor units."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data
# class, which is slow.

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum

MINOR_DIGITS = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}
"""Decimal places of each currency the bank knows (ISO 4217)."""


@dataclass(frozen=True)
class Transfer:
    """An order to move `amount` from one account to another.

    The limit travels with the order: changing the bank's policy then changes new transfers only,
    and open runs replay as they began.
    """

    id: str
    source: str
    target: str
    amount: int
    currency: str
    review_over: int = 10_000_00


class Decision(str, Enum):
    """What a reviewer may answer."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True)
class Review:
    """A reviewer's answer."""

    decision: Decision
    reviewer: str


class TransferStatus(str, Enum):
    """Where a transfer stands; the last five are final."""

    RUNNING = "RUNNING"
    WAITING_FOR_REVIEW = "WAITING_FOR_REVIEW"
    COMPLETED = "COMPLETED"
    REJECTED = "REJECTED"
    DECLINED = "DECLINED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class TransferResult:
    """How a transfer ended: COMPLETED with a receipt, or REJECTED or DECLINED with a reason."""

    status: TransferStatus
    receipt: int | None = None
    reason: str | None = None


def to_minor_units(text: str, currency: str) -> int:
    """Reads "12.34" as 1234, without a float on the way.

    Raises:
        ValueError: The currency is unknown, or the text is not an amount in it.
    """
    if currency not in MINOR_DIGITS:
        raise ValueError(f"unknown currency {currency!r}")
    try:
        units = Decimal(text).scaleb(MINOR_DIGITS[currency])
        whole = int(units)
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(f"{text!r} is not an amount") from None
    if whole != units:
        raise ValueError(f"{currency} has {MINOR_DIGITS[currency]} decimals, {text!r} has more")
    return whole


def format_amount(amount: int, currency: str) -> str:
    """Writes 123456 as "1,234.56 EUR"."""
    digits = MINOR_DIGITS[currency]
    return f"{Decimal(amount).scaleb(-digits):,.{digits}f} {currency}"
