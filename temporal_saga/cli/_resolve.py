"""Settles a step or undo that waits for a person: decides from the story what to do, and does it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from shlex import quote
from typing import Any, Literal

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from ._connect import Problem, explained
from ._history import BY_US, parse_id
from ._story import Step, Story
from ._words import effect, undoing

__all__ = ["ACTIONS", "Settlement", "decide", "identity_of", "settle"]

Action = Literal["retry", "done-by-hand", "give-up"]
ACTIONS = ("retry", "done-by-hand", "give-up")

_PATIENCE = timedelta(seconds=15)
_PAUSES = (0.2, 0.4, 0.8, 1.6)
_MOST_NAMED = 10

TOO_EARLY = "is not on record as parked yet"
"""A part of the message with which a workflow rejects a decision that comes a moment too early."""

_MOST_WHO, _MOST_WHY = 100, 800  # the server takes an identity of 1,000 bytes


@dataclass(frozen=True)
class Settlement:
    """A decision that is about to be carried out.

    Attributes:
        how: With the update `saga_resolve`, or by completing the activity of the undo.
        question: The question to the person, before.
        done: The answer to the person, after.
    """

    workflow_id: str
    run_id: str
    how: Literal["update", "complete"]
    activity_id: str
    key: str
    action: Action
    question: str
    done: str


def identity_of(who: str, why: str) -> str:
    """Return the identity under which a person acts. The history keeps it with the completion of an activity.

    Raises:
        Problem: If who or why cannot be recorded.
    """
    for name, value, most in (("--who", who, _MOST_WHO), ("--why", why, _MOST_WHY)):
        if not value.strip():
            raise Problem(f"say {name}: it goes on record")
        if len(value.encode(errors="replace")) > most:
            raise Problem(f"{name} is too long: at most {most} bytes")
        if not value.replace("\n", "").isprintable():
            raise Problem(f"{name} has control characters: write text")
    if "\n" in who:
        raise Problem("--who has a line break: write only a name there, and the rest as --why")
    if ": " in who:
        raise Problem("--who has a colon: write only a name there, and the rest as --why")
    return f"{who}: {why}{BY_US}"


def decide(story: Story, key: str, action: Action, now: datetime) -> Settlement:
    """Decide what an action means for a step.

    Args:
        story: The story of the workflow.
        key: The step's key, or the id of one of its calls.
        action: The action that the person wants.
        now: The time.

    Raises:
        Problem: If the action is not possible. The message says what is.
    """
    parts = parse_id(key)
    whole = story
    story, step = _find(whole, parts[2] if parts else key)
    name, last = step.undo or "its undo", step.last
    if step.undone:
        raise Problem(f"{step.name} is already undone: {undoing(step, story, now)}")
    if step.undo_state == "RUNNING" and last is not None:
        state = undoing(step, story, now)
        if last.kind == "child":
            raise Problem(f"the child workflow {last.id} undoes {step.name}: look at it with `temporal-saga show`")
        if action == "retry":
            raise Problem(
                f"the undo is retried automatically ({state}); to retry it now: "
                f"temporal activity reset --workflow-id {quote(story.workflow_id)} --activity-id {quote(last.id)}"
            )
        if action == "give-up":
            raise Problem(f"the undo is retried automatically ({state}): give-up is only for a parked one")
        return Settlement(
            story.workflow_id,
            story.run_id,
            "complete",
            last.id,
            step.key,
            action,
            f"{state}. Have you undone {step.name} by hand, and may the saga count {name} as done?",
            f"{name} counts as done: {step.name} is undone by hand.",
        )
    if not story.is_open:
        raise Problem(
            f"workflow {story.workflow_id!r} has ended, so there is nothing to decide; {_became(step, story, now)}"
        )
    undo_waits = step.undo_state in ("PARKED", "FAILED")
    step_waits = step.state == "PARKED" or (step.state == "UNKNOWN" and step.undo_state in (None, "PENDING"))
    if not undo_waits and not step_waits:
        waiting = _waiting(whole)
        parked = f"; parked now: {_named(waiting)}" if waiting else ""
        raise Problem(f"{step.name} does not wait for a person; {_became(step, story, now)}{parked}")
    if action == "done-by-hand" and not undo_waits:
        raise Problem(f"{step.name} itself is parked, and nobody can give its result by hand: choose retry or give-up")
    if story.status == "PAUSED":
        raise Problem(f"workflow {story.workflow_id!r} is paused, and accepts no decision: unpause it first")
    what = f"{name}, which undoes {step.name}," if undo_waits else step.name
    question = {
        "retry": f"Run {what} again, under the same key?",
        "done-by-hand": f"Have you undone {step.name} by hand, and may the saga count {name} as done?",
        "give-up": f"Give up on {what} for good? "
        + (
            f"The effect of {step.name} then stands."
            if undo_waits
            else "The step then fails, and the saga goes on from its error."
        ),
    }
    done = {
        "retry": f"{what} runs again.",
        "done-by-hand": f"{name} counts as done: {step.name} is undone by hand.",
        "give-up": f"{what} is given up.",
    }
    activity = last.id if last is not None else ""
    return Settlement(
        story.workflow_id, story.run_id, "update", activity, step.key, action, question[action], done[action]
    )


def _became(step: Step, story: Story, now: datetime) -> str:
    undo = undoing(step, story, now)
    text = f"{step.name}: {effect(step)}" + ("" if undo == "-" else f", undo: {undo}")
    return text if story.trouble is None else f"{text}; the workflow task keeps failing: deploy a fix first"


async def settle(client: Client, settlement: Settlement, who: str, why: str) -> None:
    """Carry out the decision.

    Raises:
        Problem: If the server or the workflow refuses.
    """
    if settlement.how == "complete":
        await _complete(client, settlement)
    else:
        await _update(client, settlement, who, why)


async def _complete(client: Client, settlement: Settlement) -> None:
    handle = client.get_async_activity_handle(
        workflow_id=settlement.workflow_id, run_id=settlement.run_id, activity_id=settlement.activity_id
    )
    async with explained(client, f"activity {settlement.activity_id!r}"):
        try:
            await handle.complete()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Problem("the undo has ended in the meantime: check it with `temporal-saga show`") from error
            raise


async def _update(client: Client, settlement: Settlement, who: str, why: str) -> None:
    handle: Any = client.get_workflow_handle(settlement.workflow_id, run_id=settlement.run_id)
    arguments = [settlement.key, settlement.action.replace("-", "_"), who, why]
    for pause in _PAUSES:
        with suppress(_TooEarly):
            await _send(client, handle, arguments)
            return
        await asyncio.sleep(pause)
    await _send(client, handle, arguments)


class _TooEarly(Problem):
    """The workflow has shown that something is parked before its history has the parking."""


async def _send(client: Client, handle: Any, arguments: list[str]) -> None:
    async with explained(client, f"workflow {handle.id!r}"):
        try:
            update = handle.execute_update("saga_resolve", args=arguments, rpc_timeout=_PATIENCE)
            await asyncio.wait_for(update, _PATIENCE.total_seconds() + 1)
        except WorkflowUpdateFailedError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.type == "SagaNotResolved":
                # The library's own words: keys and names.
                raise (_TooEarly if TOO_EARLY in cause.message else Problem)(cause.message) from error
            raise Problem("the workflow refuses the decision: nothing is parked under that key") from error
        except (asyncio.TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            raise _unheard() from error
        except RPCError as error:
            if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
                raise _unheard() from error
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Problem("the workflow has ended in the meantime: check it with `temporal-saga show`") from error
            raise


def _unheard() -> Problem:
    return Problem(
        f"no worker took the decision in {_PATIENCE.total_seconds():.0f} s, but one may still do so: start a worker, "
        "check with `temporal-saga show`, and only then try again"
    )


def _waiting(story: Story) -> list[Step]:
    """Return what is parked, of children too."""
    steps = {step.key: step for each in story.family() for step in each.steps}  # a step that was handed over is in two
    return [step for step in steps.values() if "PARKED" in (step.state, step.undo_state)]


def _named(steps: Sequence[Step]) -> str:
    names = [f"{step.name} {step.key}" for step in steps[:_MOST_NAMED]]
    return ", ".join(names) + (f" and {len(steps) - _MOST_NAMED} more" if len(steps) > _MOST_NAMED else "")


def _find(story: Story, key: str) -> tuple[Story, Step]:
    """Find a step. If a child has handed it over, find it in the saga that undoes it."""
    found = [(each, step) for each in story.family() for step in each.steps if step.key == key]
    if not found:
        waiting = _waiting(story)
        parked = f"parked now: {_named(waiting)}; all its " if waiting else "its "
        known = f"{parked}steps: {_named(story.steps) or 'none'}"
        raise Problem(f"workflow {story.workflow_id!r} has no step with the key {key!r}; {known}")
    return max(found, key=lambda each: any(call.phase != "do" for call in each[1].calls))
