"""A class like Java's `io.temporal.workflow.Saga`: `add_compensation`, then `compensate()` when a step has failed.

Seen in: teams that come from the Java SDK, and helper modules in application repositories. This one has the kinder
options: an error of one compensation does not stop the others, and the first error is raised.

Misses: in Java a cancel is a `TemporalFailure`, and the same `catch` catches it. In Python a cancel in a sleep or a
wait is `asyncio.CancelledError`, which is not a `FailureError`. Java can run the compensations in a detached scope,
which a cancel does not reach. Python has no such scope: a cancel abandons the running compensation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from bench.idioms.steps import PACKING, SETTLEMENT, STEP, UNDO, Bank, Order, Shop, Transfer, Undo


class JavaSaga:
    """Keeps compensations, and runs them: in reverse, or all at once."""

    def __init__(self, *, parallel_compensation: bool = False, continue_with_error: bool = True) -> None:
        self._compensations: list[Undo] = []
        self._parallel = parallel_compensation
        self._continue = continue_with_error

    def add_compensation(self, undo: Callable[[Any, Any], Awaitable[None]], argument: Any) -> None:
        self._compensations.append((undo, argument))

    async def compensate(self) -> None:
        """Run the compensations; raise the first error of them, the others are logged."""
        if self._parallel:
            await asyncio.gather(*[self._run(each) for each in self._compensations])
            return
        first: FailureError | None = None
        for each in reversed(self._compensations):
            try:
                await self._run(each)
            except FailureError as error:
                if not self._continue:
                    raise
                workflow.logger.exception("a compensation failed")
                first = first or error
        if first is not None:
            raise first

    async def _run(self, compensation: Undo) -> None:
        undo, argument = compensation
        await workflow.execute_activity_method(undo, argument, **UNDO)


@workflow.defn(name="JavaSagaTransfer")
class TransferWorkflow:
    @workflow.run
    async def run(self, transfer: Transfer) -> None:
        saga = JavaSaga()
        try:
            saga.add_compensation(Bank.return_withdrawal, transfer)
            await workflow.execute_activity_method(Bank.withdraw, transfer, **STEP)
            await asyncio.sleep(SETTLEMENT.total_seconds())
            saga.add_compensation(Bank.reverse_deposit, transfer)
            await workflow.execute_activity_method(Bank.deposit, transfer, **STEP)
            saga.add_compensation(Bank.void_record, transfer)
            await workflow.execute_activity_method(Bank.record, transfer, **STEP)
        except FailureError:
            await saga.compensate()
            raise


@workflow.defn(name="JavaSagaOrder")
class OrderWorkflow:
    @workflow.run
    async def run(self, order: Order) -> None:
        saga = JavaSaga()
        try:
            saga.add_compensation(Shop.refund, order)
            saga.add_compensation(Shop.release, order)
            await asyncio.gather(
                workflow.execute_activity_method(Shop.charge, order, **STEP),
                workflow.execute_activity_method(Shop.allocate, order, **STEP),
            )
            await asyncio.sleep(PACKING.total_seconds())
            saga.add_compensation(Shop.cancel_pickup, order)
            await workflow.execute_activity_method(Shop.book_pickup, order, **STEP)
        except FailureError:
            await saga.compensate()
            raise
