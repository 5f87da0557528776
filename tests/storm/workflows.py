"""The transfers of the storm: with a saga that parks, in two releases of its code, and by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from examples.money_transfer.activities import Bank
from examples.money_transfer.models import Transfer
from temporal_saga import Saga, presets


@dataclass(frozen=True)
class Job:
    """A transfer, and what it meets.

    Attributes:
        transfer: What to move.
        fails: Whether it is found to be a fraud at the end.
        waits: Seconds to wait after the withdrawal, in which a cancel may come.
        parallel: Whether both sides move at the same time.
    """

    transfer: Transfer
    fails: bool = False
    waits: float = 0
    parallel: bool = False


PATCH = "deposit-before-record"
"""What the two releases of the code differ in."""


@workflow.defn
class ParkingTransfer:
    """With a saga: what fails for good waits for the operator."""

    @workflow.run
    async def run(self, job: Job) -> None:
        await _transfer(job, lambda: workflow.patched(PATCH))


@workflow.defn(name="ParkingTransfer")
class PreviousParkingTransfer:
    """Its previous release, which knows no patch."""

    @workflow.run
    async def run(self, job: Job) -> None:
        await _transfer(job, lambda: False)


async def _transfer(job: Job, deposits_first: Callable[[], bool]) -> None:
    transfer = job.transfer
    async with Saga(
        "transfer", activity_options=presets.standard(), on_step_failure="park", on_compensation_failure="park"
    ) as saga:

        async def deposit() -> None:
            await saga.execute_activity_method(Bank.deposit, transfer, compensation=Bank.reverse_deposit)

        async def record() -> None:
            await saga.execute_activity_method(Bank.record, transfer, compensation=Bank.void_record)

        withdraw = saga.execute_activity_method(Bank.withdraw, transfer, compensation=Bank.return_withdrawal)
        if job.parallel:
            await asyncio.gather(withdraw, deposit())
            await record()
        else:
            await withdraw
            await workflow.sleep(job.waits)
            for step in (deposit, record) if deposits_first() else (record, deposit):
                await step()
        if job.fails:
            raise ApplicationError("a fraud", type="Fraud")


@workflow.defn
class ByHandTransfer:
    """The idiom of the tutorials at its best: keys, fenced activities, each step noted before it starts."""

    @workflow.run
    async def run(self, job: Job) -> None:
        done: list[tuple[Any, str]] = []

        async def step(do: Any, undo: Any, name: str) -> None:
            key = str(uuid5(NAMESPACE_URL, f"{workflow.info().workflow_id}/{name}"))
            done.append((undo, f"{name}:undo:{key}"))
            await workflow.execute_activity_method(
                do, job.transfer, activity_id=f"{name}:do:{key}", **presets.standard()
            )

        async def compensate() -> None:
            for undo, id in reversed(done):
                await workflow.execute_activity_method(undo, job.transfer, activity_id=id, **presets.compensation())

        try:
            withdraw = step(Bank.withdraw, Bank.return_withdrawal, "withdraw")
            if job.parallel:
                await asyncio.gather(withdraw, step(Bank.deposit, Bank.reverse_deposit, "deposit"))
            else:
                await withdraw
                await workflow.sleep(timedelta(seconds=job.waits))
                await step(Bank.deposit, Bank.reverse_deposit, "deposit")
            await step(Bank.record, Bank.void_record, "record")
            if job.fails:
                raise ApplicationError("a fraud", type="Fraud")
        except Exception:
            await compensate()
            raise
