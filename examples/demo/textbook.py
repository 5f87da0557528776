"""The idiom of the tutorials: a list of compensations, `except Exception`, the list in reverse.

A fair copy. It calls the examples' own activities, with the options and in the order of the sagas;
a compensation is on the list before its step starts, the more careful of the two forms one finds;
and the activities get stable keys, so that a repeat does no harm. It stays with the plain idiom: no
carrier is tried after the first, and nobody is told by mail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import presets

with workflow.unsafe.imports_passed_through():
    from examples.money_transfer.activities import Bank
    from examples.money_transfer.models import Decision, Review, Transfer
    from examples.order.activities import Shop
    from examples.order.models import Booking, Order, Payment, PickOrder, Shipment


@workflow.defn
class TextbookTransfer:
    """The money transfer."""

    def __init__(self) -> None:
        self._review: Review | None = None

    @workflow.run
    async def run(self, transfer: Transfer) -> int:
        """Returns the receipt."""
        await workflow.execute_activity_method(Bank.check, transfer, **step("check", presets.fast))
        compensations: list[tuple[Callable[[Bank, Transfer], None], str]] = []
        try:
            compensations.append((Bank.return_withdrawal, "withdraw"))
            await workflow.execute_activity_method(Bank.withdraw, transfer, **step("withdraw", presets.conflict))
            if transfer.amount > transfer.review_over:
                await self._approval()
            compensations.append((Bank.reverse_deposit, "deposit"))
            await workflow.execute_activity_method(Bank.deposit, transfer, **step("deposit"))
            compensations.append((Bank.void_record, "record"))
            return await workflow.execute_activity_method(Bank.record, transfer, **step("record"))
        except Exception:
            for undo, name in reversed(compensations):
                await workflow.execute_activity_method(undo, transfer, **undo_of(name))
            raise

    @workflow.update
    def review(self, review: Review) -> None:
        """Approves or rejects a transfer over the limit."""
        self._review = review

    async def _approval(self) -> None:
        await workflow.wait_condition(lambda: self._review is not None, timeout=timedelta(hours=24))
        if self._review is None or self._review.decision is Decision.REJECT:
            raise ApplicationError("the transfer was rejected", non_retryable=True)


@workflow.defn
class TextbookOrder:
    """The order."""

    def __init__(self) -> None:
        self._tracking_number: str | None = None

    @workflow.run
    async def run(self, order: Order) -> str:
        """Returns the tracking number."""
        total = await workflow.execute_activity_method(Shop.validate, order, **step("validate", presets.fast))
        payment = Payment(order.card, total)
        booking = Booking(order.id, order.carriers[0])
        compensations: list[tuple[Callable[[Shop, Any], None], Any, str]] = []
        try:
            compensations.append((Shop.refund, payment, "charge"))
            compensations.append((Shop.release, order, "allocate"))
            await asyncio.gather(
                workflow.execute_activity_method(Shop.charge, payment, **step("charge")),
                workflow.execute_activity_method(Shop.allocate, order, **step("allocate", presets.conflict)),
            )
            compensations.append((Shop.cancel_pickup, booking, "pickup"))
            await workflow.execute_activity_method(Shop.book_pickup, booking, **step("pickup", presets.fast))
            compensations.append((Shop.void_label, booking, "label"))
            label = await workflow.execute_activity_method(Shop.print_label, booking, **step("label", presets.fast))
            pick = PickOrder(order.id, label)
            compensations.append((Shop.recall_from_warehouse, pick, "notify"))
            await workflow.execute_activity_method(Shop.notify_warehouse, pick, **step("notify"))
            tracking_number = await self._wait_for_shipment()
            shipment = Shipment(order.id, tracking_number)
            await workflow.execute_activity_method(Shop.record_shipment, shipment, **step("record"))
        except Exception:
            for undo, argument, name in reversed(compensations):
                await workflow.execute_activity_method(undo, argument, **undo_of(name))
            raise
        return tracking_number

    @workflow.signal
    def shipment_ready(self, tracking_number: str) -> None:
        """The parcel has left the warehouse."""
        self._tracking_number = tracking_number

    async def _wait_for_shipment(self) -> str:
        await workflow.wait_condition(lambda: self._tracking_number is not None, timeout=timedelta(days=7))
        assert self._tracking_number is not None, "waited for"
        return self._tracking_number


# The activities find their keys in their ids, so the textbook writes its ids in the saga's form.


def step(name: str, preset: presets.Preset = presets.standard) -> workflow.ActivityConfig:
    """The options of a step."""
    return {**preset.config(), "activity_id": f"{name}:do:{_key(name)}"}


def undo_of(name: str) -> workflow.ActivityConfig:
    """The options of what undoes a step."""
    return {**presets.compensation.config(), "activity_id": f"{name}:undo:{_key(name)}"}


def _key(name: str) -> UUID:
    return uuid5(UUID(workflow.info().run_id), name)
