"""The workflow notes which steps have completed, and the rollback skips the other steps.

Seen in: workflows that keep a status for queries and roll back by that status, state machines that were moved to
Temporal, and code that assistants write.

Misses: a step without the mark may have taken effect: its reply was lost, it timed out, it was cancelled, or it is
still running beside a step that failed. A cancel while the rollback runs, or one undo that fails, loses the rest.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, UNDO, Bank, Order, Shop, Transfer


@workflow.defn(name="CompletedFlagsTransfer")
class TransferWorkflow:
    def __init__(self) -> None:
        self.withdrawn = False
        self.deposited = False
        self.recorded = False

    @workflow.run
    async def run(self, transfer: Transfer) -> None:
        try:
            await workflow.execute_activity_method(Bank.withdraw, transfer, **STEP)
            self.withdrawn = True
            await asyncio.sleep(SETTLEMENT.total_seconds())
            await workflow.execute_activity_method(Bank.deposit, transfer, **STEP)
            self.deposited = True
            await workflow.execute_activity_method(Bank.record, transfer, **STEP)
            self.recorded = True
        except (Exception, asyncio.CancelledError):
            await self._roll_back(transfer)
            raise

    async def _roll_back(self, transfer: Transfer) -> None:
        if self.recorded:
            await workflow.execute_activity_method(Bank.void_record, transfer, **UNDO)
        if self.deposited:
            await workflow.execute_activity_method(Bank.reverse_deposit, transfer, **UNDO)
        if self.withdrawn:
            await workflow.execute_activity_method(Bank.return_withdrawal, transfer, **UNDO)


@workflow.defn(name="CompletedFlagsOrder")
class OrderWorkflow:
    def __init__(self) -> None:
        self.charged = False
        self.allocated = False
        self.booked = False

    @workflow.run
    async def run(self, order: Order) -> None:
        try:
            await asyncio.gather(self._charge(order), self._allocate(order))
            await asyncio.sleep(PACKING.total_seconds())
            await workflow.execute_activity_method(Shop.book_pickup, order, **STEP)
            self.booked = True
        except (Exception, asyncio.CancelledError):
            await self._roll_back(order)
            raise

    async def _charge(self, order: Order) -> None:
        await workflow.execute_activity_method(Shop.charge, order, **STEP)
        self.charged = True

    async def _allocate(self, order: Order) -> None:
        await workflow.execute_activity_method(Shop.allocate, order, **STEP)
        self.allocated = True

    async def _roll_back(self, order: Order) -> None:
        if self.booked:
            await workflow.execute_activity_method(Shop.cancel_pickup, order, **UNDO)
        if self.allocated:
            await workflow.execute_activity_method(Shop.release, order, **UNDO)
        if self.charged:
            await workflow.execute_activity_method(Shop.refund, order, **UNDO)
