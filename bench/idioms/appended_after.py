"""Each compensation goes on a list after its step, and `except Exception` runs the list in reverse.

Seen in: blog posts, answers to questions about sagas, and most first versions in applications.

Misses: if a step timed out, or its reply was lost, it may have taken effect, but its compensation is not on the list.
In a `gather`, a step that is still running is not on the list either. A cancel in a sleep or a wait is not an
`Exception`. A cancel while the compensations run, or one compensation that fails, loses the rest.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, UNDO, Bank, Order, Shop, Transfer, Undo


async def compensate(compensations: list[Undo]) -> None:
    for undo, argument in reversed(compensations):
        await workflow.execute_activity_method(undo, argument, **UNDO)


@workflow.defn(name="AppendedAfterTransfer")
class TransferWorkflow:
    @workflow.run
    async def run(self, transfer: Transfer) -> None:
        compensations: list[Undo] = []
        try:
            await workflow.execute_activity_method(Bank.withdraw, transfer, **STEP)
            compensations.append((Bank.return_withdrawal, transfer))
            await asyncio.sleep(SETTLEMENT.total_seconds())
            await workflow.execute_activity_method(Bank.deposit, transfer, **STEP)
            compensations.append((Bank.reverse_deposit, transfer))
            await workflow.execute_activity_method(Bank.record, transfer, **STEP)
            compensations.append((Bank.void_record, transfer))
        except Exception:
            await compensate(compensations)
            raise


@workflow.defn(name="AppendedAfterOrder")
class OrderWorkflow:
    @workflow.run
    async def run(self, order: Order) -> None:
        compensations: list[Undo] = []

        async def charge() -> None:
            await workflow.execute_activity_method(Shop.charge, order, **STEP)
            compensations.append((Shop.refund, order))

        async def allocate() -> None:
            await workflow.execute_activity_method(Shop.allocate, order, **STEP)
            compensations.append((Shop.release, order))

        try:
            await asyncio.gather(charge(), allocate())
            await asyncio.sleep(PACKING.total_seconds())
            await workflow.execute_activity_method(Shop.book_pickup, order, **STEP)
            compensations.append((Shop.cancel_pickup, order))
        except Exception:
            await compensate(compensations)
            raise
