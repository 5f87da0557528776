"""What goes wrong in the stories. The saga and the textbook meet the same."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from temporalio import activity, workflow

from temporal_saga import Declined

with workflow.unsafe.imports_passed_through():
    from examples.demo.textbook import TextbookOrder
    from examples.money_transfer.activities import Bank
    from examples.money_transfer.ledger import Ledger
    from examples.money_transfer.models import Transfer
    from examples.order.activities import Shop
    from examples.order.models import Order, OrderState, Payment, PickOrder
    from examples.order.payments import PaymentProvider
    from examples.order.store import Store
    from examples.order.workflows import OrderWorkflow


class Gate:
    """Holds an activity in the middle, until the story goes on."""

    def __init__(self) -> None:
        """Is shut, and no activity has come to it."""
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.passed = threading.Event()

    @contextmanager
    def hold(self) -> Generator[None, None, None]:
        """Waits until the gate is opened."""
        self.reached.set()
        # A limit, so that a story that fails does not keep the worker from stopping.
        self.opened.wait(30)
        try:
            yield
        finally:
            self.passed.set()


class ClosedBooks(Bank):
    """A bank that no longer records anything, and whose deposits take their time to be reversed."""

    def __init__(self, ledger: Ledger, gate: Gate) -> None:
        """Keeps the gate at which a reversal waits."""
        super().__init__(ledger)
        self._gate = gate

    @activity.defn
    def record(self, transfer: Transfer) -> int:
        """Refuses."""
        raise Declined("the books are closed for today")

    @activity.defn
    def reverse_deposit(self, transfer: Transfer) -> None:
        """Undoes `deposit`, slowly."""
        with self._gate.hold():
            super().reverse_deposit(transfer)


class SlowCharge(Shop):
    """A shop whose payment provider is slow, and knows nothing of charges that are yet to come."""

    def __init__(self, store: Store, gate: Gate) -> None:
        """Keeps the gate at which the charge waits."""
        super().__init__(store)
        self.payments = PlainProvider(store)
        self._gate = gate

    @activity.defn
    def charge(self, payment: Payment) -> None:
        """Takes the money, slowly; a cancel does not reach it."""
        with self._gate.hold():
            super().charge(payment)

    @activity.defn
    def allocate(self, order: Order) -> None:
        """Takes the goods off the shelf, while the charge is in flight."""
        self._gate.reached.wait(30)
        super().allocate(order)


class PlainProvider(PaymentProvider):
    """Like most providers, and unlike the example's, it can give back only what it has taken."""

    def take_back(self, key: str, payment: Payment) -> None:
        """Refunds the charge of that key; there is nothing to refund if it has not come yet."""
        if self._store.rows("SELECT 1 FROM payments WHERE key = ?", key):
            super().take_back(key, payment)


class PromptWarehouse(Shop):
    """A shop whose warehouse hands over the parcel as soon as it hears of it."""

    def __init__(self, store: Store, gate: Gate) -> None:
        """Needs no gate: in this story only the code is at fault."""
        super().__init__(store)

    @activity.defn
    def notify_warehouse(self, pick: PickOrder) -> None:
        """Tells the warehouse, and the parcel leaves."""
        super().notify_warehouse(pick)
        parcel = (f"parcel {pick.order_id}", "parcel", "customer", pick.label)
        with self.store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?)", parcel)


def _as_number(tracking_number: Any) -> str:
    return str(tracking_number + 1)  # the bug: TypeError, it is a text


@workflow.defn(name="Order")
class OrderWithBug(OrderWorkflow):
    """The order in a release with a bug, which shows when the parcel has left."""

    @workflow.run
    async def run(self, order: Order) -> OrderState:
        """Runs into the bug."""
        return await super().run(order)

    async def _wait_for_shipment(self) -> str:
        return _as_number(await super()._wait_for_shipment())


@workflow.defn(name="TextbookOrder")
class TextbookOrderWithBug(TextbookOrder):
    """The textbook's order with the same bug."""

    @workflow.run
    async def run(self, order: Order) -> str:
        """Runs into the bug."""
        return await super().run(order)

    async def _wait_for_shipment(self) -> str:
        return _as_number(await super()._wait_for_shipment())
