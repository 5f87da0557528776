"""A list of closures, run in reverse under `asyncio.shield`, after a cancel too.

Seen in: answers to "my compensations do not run when the workflow is cancelled", and advanced tutorials.

Misses: the shield protects the compensations, but not the `await` of the shield. A cancel while the compensations run
ends the main method, which closes the run before they have ended. A compensation that fails loses the rest. A step
that a cancel abandons may take effect after its compensation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, UNDO, Bank, Order, Shop, Transfer

Closure = Callable[[], Awaitable[Any]]


async def compensate(compensations: list[Closure]) -> None:
    for undo in reversed(compensations):
        await undo()


@workflow.defn(name="ShieldedTransfer")
class TransferWorkflow:
    @workflow.run
    async def run(self, transfer: Transfer) -> None:
        compensations: list[Closure] = []
        try:
            compensations.append(lambda: workflow.execute_activity_method(Bank.return_withdrawal, transfer, **UNDO))
            await workflow.execute_activity_method(Bank.withdraw, transfer, **STEP)
            await asyncio.sleep(SETTLEMENT.total_seconds())
            compensations.append(lambda: workflow.execute_activity_method(Bank.reverse_deposit, transfer, **UNDO))
            await workflow.execute_activity_method(Bank.deposit, transfer, **STEP)
            compensations.append(lambda: workflow.execute_activity_method(Bank.void_record, transfer, **UNDO))
            await workflow.execute_activity_method(Bank.record, transfer, **STEP)
        except (Exception, asyncio.CancelledError):
            await asyncio.shield(compensate(compensations))
            raise


@workflow.defn(name="ShieldedOrder")
class OrderWorkflow:
    @workflow.run
    async def run(self, order: Order) -> None:
        compensations: list[Closure] = []
        try:
            compensations.append(lambda: workflow.execute_activity_method(Shop.refund, order, **UNDO))
            compensations.append(lambda: workflow.execute_activity_method(Shop.release, order, **UNDO))
            await asyncio.gather(
                workflow.execute_activity_method(Shop.charge, order, **STEP),
                workflow.execute_activity_method(Shop.allocate, order, **STEP),
            )
            await asyncio.sleep(PACKING.total_seconds())
            compensations.append(lambda: workflow.execute_activity_method(Shop.cancel_pickup, order, **UNDO))
            await workflow.execute_activity_method(Shop.book_pickup, order, **STEP)
        except (Exception, asyncio.CancelledError):
            await asyncio.shield(compensate(compensations))
            raise
