"""What an error says of a step, and of the saga around it."""

from __future__ import annotations

import asyncio
import builtins
import sys
from typing import Any

import pytest

from temporal_saga import Outcome
from temporal_saga._step import Step
from tests.driver import Run
from tests.rules.workflows import REFUSED, do, flow, new_saga


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in Python 3.11")
def test_the_bug_in_a_group_fails_the_task_whatever_stands_beside_it() -> None:
    group: Any = getattr(builtins, "BaseExceptionGroup", None)

    @flow
    async def swallows() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "charge")
                raise group("both", [asyncio.CancelledError(), REFUSED, KeyError("the bug")])
        except group:
            return "swallowed"

    run = Run(swallows).autopilot({})
    assert run.task_failure is not None
    assert "the bug" in run.task_failure[2]


def test_a_call_that_ends_as_a_cancelled_task_may_have_had_its_effect() -> None:
    @flow
    async def settled() -> list[str]:
        asked: list[str] = []

        class Call(asyncio.Future[None]):
            def cancel(self, msg: object = None) -> bool:
                asked.append("cancel")
                return super().cancel(msg)

        call: Any = Call()
        step = Step("charge", "key", "refund")
        step.task = call
        step.request_cancel()
        await asyncio.wait([call])
        step.request_cancel()  # it has ended: there is nothing to ask
        step.settle((1,), lambda: False)
        step.request_cancel()  # the drain may have settled it while its caller waited its turn
        assert step.outcome is Outcome.UNKNOWN
        assert isinstance(step.error, asyncio.CancelledError)
        return asked

    run = Run(settled).autopilot({})
    assert run.result == ["cancel"]
