"""Each compensation goes on a list before its step, and `except Exception` runs the list in reverse.

Seen in: the better tutorials, and pages on compensating transactions.

Misses: a cancel in a sleep or a wait is not an `Exception`. A cancel while the compensations run, or one compensation
that fails, loses the rest. In a `gather`, the compensation of a step that is still running overtakes the step.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, UNDO, Bank, Order, Shop, Transfer, Undo


async def compensate(compensations: list[Undo]) -> None:
    for undo, argument in reversed(compensations):
        await workflow.execute_activity_method(undo, argument, **UNDO)


@workflow.defn(name="AppendedBeforeTransfer")
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
        except Exception:
            await compensate(compensations)
            raise


@workflow.defn(name="AppendedBeforeOrder")
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
        except Exception:
            await compensate(compensations)
            raise
