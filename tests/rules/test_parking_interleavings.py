"""Random sagas that park, with random ends of their calls, decisions, cancels and timers, several in one activation.

What must hold is read from the commands, from what the server was told, and from the decisions that were accepted:

* a step that may have had an effect is undone once, by its undo or by hand; or its undo was given up, and the report
  and `CompensationError` say so;
* nothing runs again unless a person says `retry`;
* no undo begins while its step runs;
* a run that has closed has nothing parked, neither in its report nor in the memo;
* each run replays.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

from temporal_saga import CompensationError, Saga
from temporal_saga.plugin import SagaPlugin
from tests.driver import (
    Event,
    Run,
    cancel,
    cancelled,
    child_cancelled,
    child_completed,
    child_failed,
    child_started,
    completed,
    failed,
    timer,
    update,
)
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, do, flow, new_saga

pytestmark = pytest.mark.usefixtures("collected")

NOT_SENT = ApplicationError("no", {"temporal_saga": {"v": 1, "kind": "NOT_SENT", "effect": "none"}}, type="NotSent")
ERRORS = {"refused": REFUSED, "not sent": NOT_SENT, "declined": DECLINED}
FAILURES = (ActivityError, ApplicationError, ChildWorkflowError)
SETTLED = ("DONE", "BY_HAND", "GIVEN_UP", "FAILED")

Node = tuple[Any, ...]


def a_body(dice: random.Random, names: list[str], depth: int = 3, *, top: bool = True) -> Node:
    """Return a random body."""
    leaves = ["step"] * 4 + ["child", "push", "callback", "undo", "sleep", "fail"]
    kind = dice.choice(leaves + (["many"] * 5 + ["together", "savepoint", "within", "try"] if depth else []))
    if kind in ("step", "child", "push"):
        names.append(f"s{len(names)}")
        return kind, names[-1], dice.choice([None, None, "park", "raise"])
    if kind == "sleep":
        return kind, dice.choice([1, 100, 5000])
    if kind == "many" and top and dice.random() < 0.3:
        return kind, a_body(dice, names, depth - 1, top=False), ("pivot",), a_body(dice, names, depth - 1, top=False)
    if kind in ("many", "together"):
        return kind, *[a_body(dice, names, depth - 1, top=top and kind == "many") for _ in range(dice.randint(2, 3))]
    if kind in ("savepoint", "within", "try"):
        return kind, a_body(dice, names, depth - 1, top=False), dice.random() < 0.5
    return (kind,)


async def act(saga: Saga, node: Node, done: list[str]) -> None:
    """Do what a body says; `done` has the steps of this scope that `undo()` may take."""
    kind, *rest = node
    if kind in ("step", "child"):
        name, parks = rest
        options: dict[str, Any] = {} if parks is None else {"on_step_failure": parks}
        if kind == "step":
            await do(saga, name, key=name, **options)
        else:
            await saga.execute_child_workflow(name, name, key=name, compensation=f"undo_{name}", **options)
        done.append(name)
    elif kind == "push":
        saga.add_compensation(f"undo_{rest[0]}", rest[0], step=rest[0], key=rest[0])
    elif kind == "callback":

        async def callback() -> None:
            await workflow.execute_activity("callback", **OPTIONS)

        saga.add_callback(callback)
    elif kind == "undo":
        if done:
            with suppress(CompensationError):
                await saga.undo(done.pop())
    elif kind == "sleep":
        await asyncio.sleep(rest[0])
    elif kind == "fail":
        raise REFUSED
    elif kind == "pivot":
        saga.pivot()
        done.clear()
    elif kind == "many":
        for each in rest:
            await act(saga, each, done)
    elif kind == "together":
        await asyncio.gather(*[act(saga, each, done) for each in rest])
    else:
        inner, swallows = rest
        try:
            if kind == "savepoint":
                async with saga.savepoint() as attempt:
                    of_attempt: list[str] = []
                    await act(attempt, inner, of_attempt)
                done += of_attempt
            elif kind == "within":
                await asyncio.wait_for(act(saga, inner, done), 3600)
            else:
                await act(saga, inner, done)
        except FAILURES:
            if not swallows:
                raise
        except asyncio.TimeoutError:
            if not swallows:
                raise ApplicationError("late", type="Late") from None


class World:
    """Feeds one run, and keeps what the server knows of it.

    Attributes:
        ends: How the calls have ended, by their ids.
        decided: The decisions that were accepted: key, whether it was the step or its undo that waited, and the action.
    """

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        names: list[str] = []
        bodies = [a_body(dice, names) for _ in range(2)]
        options: dict[str, Any] = {
            "on_step_failure": dice.choice(["park", "raise"]),
            "on_compensation_failure": dice.choice(["park", "park", "continue"]),
            "order": dice.choice(["reverse", "concurrent"]),
            "deadline": dice.choice([None, None, timedelta(hours=2)]),
            "park_reminder": dice.choice([None, None, ("tell", timedelta(hours=1))]),
        }

        @flow
        async def body() -> None:
            done: list[str] = []
            async with new_saga(**options) as saga:
                for each in bodies:
                    await act(saga, each, done)

        plugins = dice.choice([[], [SagaPlugin()]])
        self.run = Run(body, plugins=plugins, single_batch=dice.random() < 0.3)
        self.fails = dice.choice([0.1, 0.3, 0.6])
        self.cancels = dice.choice([0, 1, 2])
        self.ends: defaultdict[str, list[str]] = defaultdict(list)
        self.decided: list[tuple[str, str, str]] = []
        self._sent: dict[str, tuple[str, str, str]] = {}

    def steps(self) -> list[dict[str, Any]]:
        (only,) = self.run.query("saga_report")
        return list(only["steps"])

    def drive(self) -> None:
        """Drive the run to its end."""
        run = self.run.start()
        for _ in range(300):
            assert run.task_failure is None, run.task_failure
            if run.closed is not None:
                return
            moves = self._moves()
            assert moves, "the run waits for nothing"
            chosen = self.dice.sample(moves, min(len(moves), self.dice.choice([1, 1, 1, 2, 3])))
            for command in run.activate(*[self._event(*move) for move in chosen]):
                if command[0] == "update_accepted":
                    self.decided.append(self._sent[command[1]])
                if command[0] in ("schedule_activity", "start_child"):
                    running = {call.id for call in run.activities} | {child.id for child in run.children}
                    assert ":undo:" not in command[1] or command[1].replace(":undo:", ":do:") not in running
        raise AssertionError("the run does not end")

    def _moves(self) -> list[Node]:
        run = self.run
        moves: list[Node] = [("activity", call.id, call.cancel_requested) for call in run.activities]
        moves += [("child", child.id, child.cancel_requested, child.started) for child in run.children]
        for step in self.steps():
            parked = "undo" if step["undo_state"] == "PARKED" else "step" if step["state"] == "PARKED" else None
            moves += [("decide", step["key"], parked)] if parked else []
        moves += [("timer",)] if run.timers and (not moves or self.dice.random() < 0.3) else []
        moves += [("cancel",)] if self.cancels and len(run.activations) > 1 else []
        return moves

    def _event(self, kind: str, id: str = "", *more: Any) -> Event:
        dice = self.dice
        if kind == "timer":
            return timer()
        if kind == "cancel":
            self.cancels -= 1
            return cancel()
        if kind == "decide":
            action = dice.choice(["retry", "give_up", "done_by_hand"])
            self._sent[update_id := f"u{len(self._sent)}"] = (id, more[0], action)
            return update("saga_resolve", id, action, "ann", "because", update_id=update_id)
        if kind == "child" and not more[1]:
            return child_started(id)
        errors = ["refused"] if kind == "child" else [*ERRORS]
        error = dice.choice(errors) if dice.random() < self.fails else None
        how = "cancelled" if more[0] and dice.random() < 0.7 else error or "done"
        self.ends[id].append(how)
        if kind == "child":
            ends = {"cancelled": child_cancelled, "done": child_completed}
            return ends[how](id) if how in ends else child_failed(id, REFUSED)
        return failed(id, ERRORS[how]) if how in ERRORS else cancelled(id) if how == "cancelled" else completed(id)

    def check(self) -> None:
        """Compare what the report says with what was done, and with what persons have decided."""
        run = self.run
        (report,) = run.query("saga_report")
        assert report["state"] in ("COMPLETED", "COMPENSATED", "INCOMPLETE")
        calls = [command[1] for command in run.commands if command[0] in ("schedule_activity", "start_child")]
        for step in report["steps"]:
            key, undo_state = step["key"], step["undo_state"]
            decided = [(what, action) for each, what, action in self.decided if each == key]
            by_hand, given_up = decided.count(("undo", "done_by_hand")), decided.count(("undo", "give_up"))
            assert by_hand + given_up <= 1
            does, undos = f"{step['name']}:do:{key}", f"{step['name']}:undo:{key}"
            undos = undos if undos in calls else undos.replace(":undo:", ":push:")
            assert calls.count(does) <= 1 + decided.count(("step", "retry")), step
            assert calls.count(undos) <= 1 + decided.count(("undo", "retry")), step
            if step["name"] != "callback":
                done = self.ends[undos].count("done")
                assert (undo_state == "DONE", undo_state == "BY_HAND") == (done == 1, by_hand == 1), step
                assert done + by_hand + given_up <= 1
                assert (undo_state == "GIVEN_UP") == (given_up == 1)
            if undo_state is not None and report["state"] != "COMPLETED":
                assert undo_state in SETTLED, step
            was_sent = all(each.sent for each in run.scheduled if each.id == does)
            if step["state"] == "NOT_APPLIED" and was_sent:
                assert self.ends[does] in (["not sent"], ["declined"]), step
            if undo_state is not None and self.ends[does][-1:] in (["refused"], ["cancelled"]):
                assert undo_state in SETTLED, f"swallowed, and not undone: {step}"
        failed_undos = [step for step in report["steps"] if step["undo_state"] in ("FAILED", "GIVEN_UP")]
        assert (report["state"] == "INCOMPLETE") == bool(failed_undos)
        if failed_undos:
            assert run.error.type == "CompensationError"
        memos = [proto.modify_workflow_properties for each in run.activations for proto in each.protos]
        parked = [memo.upserted_memo.fields["saga_parked"].data for memo in memos if memo.upserted_memo.fields]
        assert parked[-1:] in ([], [b""])


@pytest.mark.parametrize("seed", [*range(25), 37, 294, 309, 312])
def test_what_parks_ends_as_decided_whatever_comes_together(seed: int) -> None:
    world = World(seed)
    world.drive()
    world.check()
    world.run.replay()
    for count in range(0, len(world.run.activations) + 1, 5):
        world.run.evict_copy(count)
