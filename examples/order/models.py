"""What goes into an order and what comes out of it. Amounts are integers in minor units (cents)."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data
# class, which is slow.

from dataclasses import dataclass, field
from enum import Enum

from temporalio.common import SearchAttributeKey

STATUS = SearchAttributeKey.for_keyword("OrderStatus")
"""Shows where an order stands in the list of workflows. A server has to know it: see the README."""


@dataclass(frozen=True)
class Line:
    """One line of an order."""

    sku: str
    quantity: int


@dataclass(frozen=True)
class Order:
    """A customer's order.

    The carriers to try and the limit of the review travel with the order: a change of the shop's
    rules then changes new orders only, and open runs replay as they began.
    """

    id: str
    email: str
    card: str
    lines: list[Line]
    carriers: list[str] = field(default_factory=lambda: ["swift", "post"])
    review_over: int | None = None
    """A person looks at an order that costs more than this. None: at no order."""


class OrderStatus(str, Enum):
    """Where an order stands: under way in the first five, ended in the others."""

    RECEIVED = "RECEIVED"
    PAYING = "PAYING"
    REVIEWING = "REVIEWING"
    BOOKING = "BOOKING"
    CONFIRMED = "CONFIRMED"
    SHIPPED = "SHIPPED"
    PAYMENT_DECLINED = "PAYMENT_DECLINED"
    OUT_OF_STOCK = "OUT_OF_STOCK"
    REJECTED = "REJECTED"
    NO_CARRIER = "NO_CARRIER"
    NOT_SHIPPED = "NOT_SHIPPED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class OrderState:
    """What `order_status` answers and what the workflow returns."""

    status: OrderStatus = OrderStatus.RECEIVED
    reason: str | None = None
    tracking_number: str | None = None


@dataclass(frozen=True)
class Review:
    """What a person says of an order that may be fraud."""

    approved: bool
    reviewer: str


@dataclass(frozen=True)
class Payment:
    """An amount to take from a card."""

    card: str
    amount: int


@dataclass(frozen=True)
class Booking:
    """An order to be carried by one carrier."""

    order_id: str
    carrier: str


@dataclass(frozen=True)
class PickOrder:
    """What the warehouse has to pack, and the label to put on it."""

    order_id: str
    label: str


@dataclass(frozen=True)
class Shipment:
    """A parcel that has left."""

    order_id: str
    tracking_number: str


@dataclass(frozen=True)
class Message:
    """A mail or a support ticket. It is sent once for each key."""

    key: str
    channel: str
    to: str
    text: str


@dataclass(frozen=True)
class Report:
    """The shop's day in numbers."""

    shipped: int
    paid: int
    on_hand: dict[str, int]


def format_amount(amount: int) -> str:
    """Writes 123456 as "1,234.56 EUR"."""
    return f"{amount // 100:,}.{amount % 100:02d} EUR"


def describe(state: OrderState) -> str:
    """The state of an order in one line."""
    note = state.reason or state.tracking_number
    return state.status.value + (f" ({note})" if note else "")
