"""The steps of an order and what undoes each. A step and its undo get the same input.

Each is one transaction, which does the work and leaves the fence's record of it: a repeat changes
nothing, an undo that finds no record of its step does nothing, and a step that comes after its undo
is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, Rejected, current_step, fence
from temporal_saga.classification import classify_errors

from .models import Booking, Message, Order, OrderStatus, Payment, PickOrder, Report, Shipment
from .payments import PROFILE, PaymentError, PaymentProvider
from .store import Store


class Shop:
    """The activities, as methods: they share a store. They block, so run them in threads."""

    def __init__(self, store: Store) -> None:
        """Keeps the store that the activities write to."""
        self.store = store
        self.payments = PaymentProvider(store)

    @property
    def activities(self) -> list[Callable[..., object]]:
        """What a worker registers."""
        return [
            self.validate,
            self.charge,
            self.refund,
            self.allocate,
            self.release,
            self.book_pickup,
            self.cancel_pickup,
            self.print_label,
            self.void_label,
            self.notify_warehouse,
            self.recall_from_warehouse,
            self.record_shipment,
            self.send,
            self.report,
        ]

    @activity.defn
    def validate(self, order: Order) -> int:
        """Checks an order, and returns what it costs."""
        if not order.lines:
            raise Rejected("an order needs a line")
        prices: dict[str, int] = dict(self.store.rows("SELECT sku, price FROM products"))
        for line in order.lines:
            if line.sku not in prices:
                raise Rejected(f"no product {line.sku}")
            if line.quantity < 1:
                raise Rejected(f"{line.quantity} is not a quantity")
        return sum(prices[line.sku] * line.quantity for line in order.lines)

    @activity.defn
    @classify_errors(profile=PROFILE)
    def charge(self, payment: Payment) -> None:
        """Takes the money."""
        try:
            self.payments.charge(current_step().key, payment)
        except PaymentError as answer:
            if answer.status == 402:  # is classified as Declined too, but the customer wants to know why
                raise Declined(str(answer), OrderStatus.PAYMENT_DECLINED) from None
            raise

    @activity.defn
    def refund(self, payment: Payment) -> None:
        """Undoes `charge`."""
        key = current_step().forward_key
        assert key is not None, "armed with its step, so it has the step's key"
        self.payments.take_back(key, payment)

    @activity.defn
    def allocate(self, order: Order) -> None:
        """Takes the goods off the shelf, all or none."""

        def take(db: sqlite3.Connection) -> None:
            for line in order.lines:
                one = "UPDATE products SET on_hand = on_hand - ? WHERE sku = ? AND on_hand >= ?"
                if not db.execute(one, (line.quantity, line.sku, line.quantity)).rowcount:
                    raise Declined(f"{line.sku} is out of stock", OrderStatus.OUT_OF_STOCK)

        self._once(order, take)

    @activity.defn
    def release(self, order: Order) -> None:
        """Undoes `allocate`."""

        def put_back(db: sqlite3.Connection) -> None:
            for line in order.lines:
                db.execute("UPDATE products SET on_hand = on_hand + ? WHERE sku = ?", (line.quantity, line.sku))

        self._once(order, put_back)

    @activity.defn
    def book_pickup(self, booking: Booking) -> None:
        """Asks a carrier to come."""
        self._once(booking, lambda db: _take_one(db, "pickups", booking.carrier))

    @activity.defn
    def cancel_pickup(self, booking: Booking) -> None:
        """Undoes `book_pickup`."""
        self._once(booking, lambda db: _give_one_back(db, "pickups", booking.carrier))

    @activity.defn
    def print_label(self, booking: Booking) -> str:
        """Prints a carrier's label, and returns its number."""
        self._once(booking, lambda db: _take_one(db, "labels", booking.carrier))
        return f"{booking.carrier}/{booking.order_id}"

    @activity.defn
    def void_label(self, booking: Booking) -> None:
        """Undoes `print_label`."""
        self._once(booking, lambda db: _give_one_back(db, "labels", booking.carrier))

    @activity.defn
    def notify_warehouse(self, pick: PickOrder) -> None:
        """Tells the warehouse to pack."""
        text = f"pack {pick.order_id}, label {pick.label}"
        message = Message(current_step().key, "warehouse", "warehouse", text)
        self._once(pick, lambda db: _put_out(db, message))

    @activity.defn
    def recall_from_warehouse(self, pick: PickOrder) -> None:
        """Undoes `notify_warehouse`: a message cannot be unsent, but a second one revokes it."""
        text = f"do not ship {pick.order_id}"
        message = Message(current_step().key, "warehouse", "warehouse", text)
        self._once(pick, lambda db: _put_out(db, message))

    @activity.defn
    def record_shipment(self, shipment: Shipment) -> None:
        """Books the sale. Not undone: the parcel has left."""
        row = (shipment.order_id, shipment.tracking_number)

        def book(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO shipments VALUES (?, ?)", row)

        self._once(shipment, book)

    @activity.defn
    def send(self, message: Message) -> None:
        """Sends a mail or opens a support ticket, once for each key."""
        # Not a step: the key names the message, and a second run of the workflow does not send another.
        with self.store.transaction() as db:
            fence.once(db, lambda: _put_out(db, message), payload=[message.channel, message.to], key=message.key)

    @activity.defn
    def report(self) -> Report:
        """Counts what has been sold and what is left."""
        ((shipped,),) = self.store.rows("SELECT count(*) FROM shipments")
        ((paid,),) = self.store.rows("SELECT coalesce(sum(amount), 0) FROM payments WHERE state = 'charged'")
        on_hand = self.store.rows("SELECT sku, on_hand FROM products ORDER BY sku")
        return Report(shipped, paid, dict(on_hand))

    def _once(self, payload: object, effect: Callable[[sqlite3.Connection], None]) -> None:
        with self.store.transaction() as db:
            fence.once(db, lambda: effect(db), payload=payload)


def _take_one(db: sqlite3.Connection, column: str, carrier: str) -> None:
    take = f"UPDATE carriers SET {column} = {column} - 1 WHERE name = ? AND {column} > 0"
    if not db.execute(take, (carrier,)).rowcount:
        raise Declined(f"{carrier} has no {column} left", OrderStatus.NO_CARRIER)


def _give_one_back(db: sqlite3.Connection, column: str, carrier: str) -> None:
    db.execute(f"UPDATE carriers SET {column} = {column} + 1 WHERE name = ?", (carrier,))


def _put_out(db: sqlite3.Connection, message: Message) -> None:
    row = (message.key, message.channel, message.to, message.text)
    db.execute("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?)", row)
