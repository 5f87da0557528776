"""A saga as people see it: names, keys and states. Never arguments, results or error details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from temporalio import workflow

_MOST_ROWS = 50


@dataclass(frozen=True)
class StepReport:
    """One step of a saga, or a compensation pushed by hand.

    Attributes:
        name: The step's name.
        key: Its key.
        state: RUNNING, PARKED (it waits for a person), or its outcome: APPLIED, NOT_APPLIED, UNKNOWN.
        undo: The name of its compensation; None if nothing is armed.
        undo_state: PENDING, RUNNING, DONE, FAILED, PARKED (it waits for a person), BY_HAND or GIVEN_UP (as a person
            has decided); None if nothing is armed.
        who: The person who has decided about the step or its undo.
        why: The reason, in that person's words.
    """

    name: str
    key: str
    state: str
    undo: str | None
    undo_state: str | None
    who: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class SagaReport:
    """A saga and its steps, those of its savepoints included, in the order in which they began.

    Attributes:
        name: The saga's name.
        state: OPEN, UNWINDING, PARKED (something waits for a person), or how it ended: COMPLETED, COMPENSATED,
            INCOMPLETE (a compensation failed), DETACHED.
        steps: Its steps.
    """

    name: str
    state: Literal["OPEN", "UNWINDING", "PARKED", "COMPLETED", "COMPENSATED", "INCOMPLETE", "DETACHED"]
    steps: list[StepReport]


def show(name: str, steps: Sequence[StepReport]) -> None:
    """Show a saga in the Web UI while it unwinds or something is parked. The newest step comes first, as in the undo.

    Not a table: the Web UI (2.54.1) drops the borders and the spaces of a table.
    """
    armed = [step for step in steps if step.undo_state is not None or step.state == "PARKED"]
    counted = {word: sum(step.undo_state in states for step in armed) for word, states in _COUNTED}
    head = [f"{counted.pop('undone')} of {len(armed)} undone", *(f"{n} {word}" for word, n in counted.items() if n)]
    lines = [f"Saga **{name}**: {', '.join(head)}", ""]
    lines += [f"- {_line(step)}" for step in reversed(armed[-_MOST_ROWS:])]
    if len(armed) > _MOST_ROWS:
        lines.append(f"- … and {len(armed) - _MOST_ROWS} older ones")
    workflow.set_current_details("\n".join(lines))


_COUNTED = [("undone", ("DONE", "BY_HAND")), ("failed", ("FAILED", "GIVEN_UP")), ("parked", ("PARKED",))]


def _line(step: StepReport) -> str:
    line = f"**{step.name}** ({step.state})"
    if step.undo_state is not None:
        line += f" → {step.undo}: **{step.undo_state}**"
    if "PARKED" in (step.state, step.undo_state):
        line += f", waits for a person: `saga_resolve` with key `{step.key}`"
    if step.who is not None:
        line += f", decided by {step.who}"
    return line
