"""The same two workflows with `temporal_saga.Saga`, and the same options for their steps."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, Bank, Order, Shop, Transfer
    from temporal_saga import Saga


@workflow.defn(name="WithSagaTransfer")
class TransferWorkflow:
    @workflow.run
    async def run(self, transfer: Transfer) -> None:
        async with Saga(activity_options=STEP) as saga:
            await saga.execute_activity_method(Bank.withdraw, transfer, compensation=Bank.return_withdrawal)
            await asyncio.sleep(SETTLEMENT.total_seconds())
            await saga.execute_activity_method(Bank.deposit, transfer, compensation=Bank.reverse_deposit)
            await saga.execute_activity_method(Bank.record, transfer, compensation=Bank.void_record)


@workflow.defn(name="WithSagaOrder")
class OrderWorkflow:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga(activity_options=STEP) as saga:
            await asyncio.gather(
                saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund),
                saga.execute_activity_method(Shop.allocate, order, compensation=Shop.release),
            )
            await asyncio.sleep(PACKING.total_seconds())
            await saga.execute_activity_method(Shop.book_pickup, order, compensation=Shop.cancel_pickup)
