"""Workflows at the edge of the promise, each before its fix and after it."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, Saga

OPTIONS: workflow.ActivityConfig = {"start_to_close_timeout": timedelta(seconds=20)}
UNDONE: dict[str, list[str]] = {}
"""By workflow id, what was undone."""


@activity.defn
async def make(name: str) -> str:
    return name


@activity.defn
async def unmake(name: str, first: str = "", second: str = "") -> None:
    UNDONE.setdefault(activity.info().workflow_id or "", []).append(name)


async def unwinds(size: int) -> None:
    async with Saga(activity_options=OPTIONS) as saga:
        await saga.execute_activity(make, "a", compensation=unmake)
        large = Compensation(unmake, args=["b", "x" * size, "x" * size])
        await saga.execute_activity(make, "b", compensation=large)
        raise ApplicationError("it went wrong", type="Boom")


@workflow.defn(name="LargeUndo")
class LargeUndo:
    """Two arguments, each of which the server takes, and not both together."""

    @workflow.run
    async def run(self) -> None:
        await unwinds(1_200_000)


@workflow.defn(name="LargeUndo")
class SmallUndo:
    """Fixed."""

    @workflow.run
    async def run(self) -> None:
        await unwinds(1_000)


async def changes(step: str) -> None:
    async with Saga(activity_options=OPTIONS) as saga:
        await saga.execute_activity(make, "a", step=step, compensation=unmake)
        await workflow.sleep(2)
        raise ApplicationError("it went wrong", type="Boom")


@workflow.defn(name="Changes", failure_exception_types=[workflow.NondeterminismError])
class Before:
    """The code that the run began with."""

    @workflow.run
    async def run(self) -> None:
        await changes("a")


@workflow.defn(name="Changes", failure_exception_types=[workflow.NondeterminismError])
class After:
    """Another step's name: another id."""

    @workflow.run
    async def run(self) -> None:
        await changes("another")


async def fails(bug: bool) -> str:
    async with Saga(activity_options=OPTIONS) as saga:
        await saga.execute_activity(make, "a", compensation=unmake)
        if bug:
            raise TypeError("a bug")
    return "done"


@workflow.defn(name="Fails")
class Fails:
    """A bug."""

    @workflow.run
    async def run(self) -> str:
        return await fails(bug=True)


@workflow.defn(name="Fails")
class Fixed:
    """Fixed."""

    @workflow.run
    async def run(self) -> str:
        return await fails(bug=False)
