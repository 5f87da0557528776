"""What people see of a saga: names, keys and states. Never arguments, results or error details."""

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
        state: RUNNING, or its outcome: APPLIED, NOT_APPLIED, UNKNOWN.
        undo: The name of what undoes it; None if nothing is armed.
        undo_state: PENDING, RUNNING, DONE or FAILED; None if nothing is armed.
        who: Who settled a parked compensation.
        why: Why, in their words.
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
        state: OPEN, UNWINDING, or how it ended: COMPLETED, COMPENSATED, INCOMPLETE (a compensation failed), DETACHED.
        steps: Its steps.
    """

    name: str
    state: Literal["OPEN", "UNWINDING", "COMPLETED", "COMPENSATED", "INCOMPLETE", "DETACHED"]
    steps: list[StepReport]


def show(name: str, steps: Sequence[StepReport]) -> None:
    """Show an unwinding saga in the Web UI, as a small table: newest step first, as they are undone."""
    armed = [step for step in steps if step.undo_state is not None]
    done = sum(step.undo_state == "DONE" for step in armed)
    failed = sum(step.undo_state == "FAILED" for step in armed)
    lines = [
        f"saga **{name}**: {done} of {len(armed)} undone" + (f", {failed} failed" if failed else ""),
        "",
        "| step | state | undo | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {step.name} | {step.state} | {step.undo} | {step.undo_state} |" for step in reversed(armed[-_MOST_ROWS:])
    ]
    if len(armed) > _MOST_ROWS:
        lines.append(f"\n… and {len(armed) - _MOST_ROWS} older ones")
    workflow.set_current_details("\n".join(lines))
