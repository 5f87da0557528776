"""Each undo is repeated in a loop in the workflow until the undo succeeds, even after an error that is not retryable.

Seen in: workflows whose undo "must not fail", and posts that let the workflow wait until somebody has fixed the
provider.

Misses: a step that a cancel abandons, or that is still running beside a step that failed, may take effect after its
undo, unless a fence refuses the step. A cancel in the sleep of the loop ends the loop and loses the rest. That takes
three faults.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, UNDO, Bank, Order, Shop, Transfer, Undo

PAUSE = 60.0


async def compensate(compensations: list[Undo]) -> None:
    for undo, argument in reversed(compensations):
        while True:
            try:
                await workflow.execute_activity_method(undo, argument, **UNDO)
                break
            except ActivityError:
                workflow.logger.exception("an undo failed, and is tried again")
                await asyncio.sleep(PAUSE)


@workflow.defn(name="RetryLoopTransfer")
class TransferWorkflow:
    @workflow.run
    async def run(self, transfer: Transfer) -> None:
        compensations: list[Undo] = []
        try:
            compensations.append((Bank.return_withdrawal, transfer))
            await workflow.execute_activity_method(Bank.withdraw, transfer, **STEP)
            await asyncio.sleep(SETTLEMENT.total_seconds())
            compensations.append((Bank.reverse_deposit, transfer))
            await workflow.execute_activity_method(Bank.deposit, transfer, **STEP)
            compensations.append((Bank.void_record, transfer))
            await workflow.execute_activity_method(Bank.record, transfer, **STEP)
        except (ActivityError, asyncio.CancelledError):
            await compensate(compensations)
            raise


@workflow.defn(name="RetryLoopOrder")
class OrderWorkflow:
    @workflow.run
    async def run(self, order: Order) -> None:
        compensations: list[Undo] = []
        try:
            compensations += [(Shop.refund, order), (Shop.release, order)]
            await asyncio.gather(
                workflow.execute_activity_method(Shop.charge, order, **STEP),
                workflow.execute_activity_method(Shop.allocate, order, **STEP),
            )
            await asyncio.sleep(PACKING.total_seconds())
            compensations.append((Shop.cancel_pickup, order))
            await workflow.execute_activity_method(Shop.book_pickup, order, **STEP)
        except (ActivityError, asyncio.CancelledError):
            await compensate(compensations)
            raise
