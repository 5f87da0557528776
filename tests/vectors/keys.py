"""Keys and ids, as a run makes them."""

from __future__ import annotations

import dataclasses
from typing import Any

from temporalio import workflow
from temporalio.testing import ActivityEnvironment

from temporal_saga import Saga, current_step
from tests.driver import Run
from tests.rules.workflows import OPTIONS, REFUSED, do

ANCHOR = "11111111-2222-4333-8444-555555555555"
ANOTHER = "01a1fceb-ca32-7d9e-87ef-8f34ea1464aa"  # version 7, as servers give

_BASE = {"anchor": ANCHOR, "saga": "saga", "nth": 1, "step": "charge", "kind": "activity"}

STEPS: list[dict[str, Any]] = [
    {**_BASE, **differs}
    for differs in (
        {"use": 1},
        {"use": 2},
        {"use": 12},
        {"key": "card-1"},
        {"key": "1"},
        {"use": 2, "savepoint": True},
        {"key": "card-1", "savepoint": True},
        {"use": 1, "anchor": ANOTHER},
        {"use": 1, "saga": "order"},
        {"use": 1, "nth": 3},
        {"use": 1, "kind": "child"},
        {"key": "card-1", "kind": "child"},
        {"use": 1, "kind": "push"},
        {"use": 2, "kind": "push"},
        {"key": "card-1", "kind": "push"},
        {"use": 1, "step": "a:b:do"},
        {"use": 1, "step": 'q"\\uote\n\t\x7f'},
        {"use": 1, "step": "Straße"},
        {"key": "e\u0301", "step": "\u00e9"},
        {"key": "🧾 7", "saga": "注文"},
        {"key": " x "},
        {"key": "k" * 300},
    )
]
PARTS_ALONE: list[list[str | int]] = [
    ["a"],
    [1],
    ["1"],
    [-7, 10**20],
    ["invoice", 7],
    ["a", "b"],
    ["a,b"],
    ['"', "\\", "\n"],
    ["ä", "€", "🧾"],
    [""],
]
PARTS: list[dict[str, Any]] = [
    {"anchor": ANCHOR, "saga": "saga", "nth": 1, "parts": parts} for parts in PARTS_ALONE
] + [{"anchor": ANOTHER, "saga": "order", "nth": 2, "parts": ["invoice", 7]}]


@workflow.defn
class Uses:
    """Uses a step as often as it says, in the nth saga of a name, and fails; or returns a key of its own."""

    @workflow.run
    async def run(self, given: dict[str, Any]) -> Any:
        for _ in range(given["nth"] - 1):
            async with Saga(given["saga"]):
                pass
        async with Saga(given["saga"], activity_options=OPTIONS) as saga:
            if "parts" in given:
                return saga.idempotency_key(*given["parts"])
            if "savepoint" not in given:
                await self.use(saga, given)
            else:
                async with saga.savepoint() as attempt:
                    await self.use(attempt, given)
            raise REFUSED

    async def use(self, saga: Saga, given: dict[str, Any]) -> None:
        step, key = given["step"], given.get("key")
        for _ in range(given.get("use", 1)):
            if given["kind"] == "push":
                saga.add_compensation("take_back", step=step, key=key)
            elif given["kind"] == "child":
                await saga.execute_child_workflow("Child", step=step, key=key, compensation="take_back")
            else:
                await do(saga, "work", step=step, key=key, compensation="take_back")


def of_step(given: Any, _: Any) -> Any:
    """Return the key of the last use of a step, and the ids that it is in."""
    run = Run(Uses, given, run_id=given["anchor"]).autopilot({})
    undo = run.scheduled[-given.get("use", 1)].id  # of the last use: undone first
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, activity_id=undo)
    step = environment.run(current_step)
    if given["kind"] == "push":
        return {"key": step.key, "id": undo}
    forward = [id for kind, id, *_ in run.commands if kind in ("schedule_activity", "start_child")]
    return {"key": step.forward_key, "id": forward[given.get("use", 1) - 1], "undo_id": undo, "undo_key": step.key}


def of_parts(given: Any, _: Any) -> Any:
    """Return the workflow's own key."""
    return Run(Uses, given, run_id=given["anchor"]).start().result
