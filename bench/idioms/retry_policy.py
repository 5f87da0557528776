"""Each undo is retried by its activity's policy, up to a maximum of attempts; a failed undo is logged.

Seen in: samples that give every activity one retry policy with a maximum of attempts, and reviews that ask for
bounded retries. The other undos run after one that failed.

Misses: if an undo fails, its step's effect stands, and only a log line says so: the run ends with the error of the
step. A cancel abandons the running undo. The table cannot show an outage that lasts longer than the attempts.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, Bank, Order, Shop, Transfer, Undo

UNDO = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30), retry_policy=RetryPolicy(maximum_attempts=10)
)


async def compensate(compensations: list[Undo]) -> None:
    for undo, argument in reversed(compensations):
        try:
            await workflow.execute_activity_method(undo, argument, **UNDO)
        except ActivityError:
            workflow.logger.exception("an undo failed")


@workflow.defn(name="RetryPolicyTransfer")
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


@workflow.defn(name="RetryPolicyOrder")
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
