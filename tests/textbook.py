"""The hand-written idiom of the tutorials, kept as the baseline that falls short.

What it does under each of the four hazards is in `tests/server/test_hazards.py`, beside what a
`Saga` does. The steps are those of `tests.server.workflows`, so that the two can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from tests.server.world import Effect, undo

from tests.server.workflows import FAST_RETRY, TEN, Plan, by_hand, go_on


async def compensate(done: Sequence[Effect]) -> None:
    for effect in reversed(done):
        await workflow.execute_activity(undo, effect, start_to_close_timeout=TEN, retry_policy=FAST_RETRY)


async def run_steps(plan: Plan, parallel: bool, done: list[Effect]) -> str:
    """Run the steps, each noted in `done` before it starts, as the better tutorials have it."""

    async def step(effect: Effect) -> None:
        done.append(effect)
        await by_hand(effect)

    if parallel:
        await asyncio.gather(*[step(effect) for effect in plan.effects])
    else:
        for effect in plan.effects:
            await step(effect)
    return await go_on(None, plan)


@workflow.defn
class TextbookLoop:
    """`except Exception` and a reversed loop."""

    @workflow.run
    async def run(self, plan: Plan, parallel: bool) -> str:
        done: list[Effect] = []
        try:
            return await run_steps(plan, parallel, done)
        except Exception:
            await compensate(done)
            raise


@workflow.defn
class TextbookShield:
    """The same in `asyncio.shield`, and for a cancel as well: the idiom at its best."""

    @workflow.run
    async def run(self, plan: Plan, parallel: bool) -> str:
        done: list[Effect] = []
        try:
            return await run_steps(plan, parallel, done)
        except (Exception, asyncio.CancelledError):
            await asyncio.shield(compensate(done))
            raise


TEXTBOOK: list[type] = [TextbookLoop, TextbookShield]
