# pyright: reportPrivateUsage=false
"""What people see of a saga: names, keys and states. Never arguments, results or error details."""

# No `from __future__ import annotations`: the SDK evaluates those of a query handler in each run, which is slow.

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from temporalio import workflow

if TYPE_CHECKING:
    from ._outcome import StepRecord
    from ._saga import Saga

__all__ = ["SagaReport", "StepReport"]

QUERY = "saga_report"

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


class Registry:
    """The sagas of one run, in order of entry. It is the run's query handler, so that nothing is global."""

    def __init__(self) -> None:
        self.sagas: list[Saga] = []
        self.error_with_cancel: BaseException | None = None
        self._ordinals: dict[str, int] = {}

    @staticmethod
    def find() -> "Registry | None":
        """Return the registry of the current run, or None if no saga was entered yet."""
        handler: object = cast(Any, workflow).get_query_handler(QUERY)
        return handler if isinstance(handler, Registry) else None

    @classmethod
    def of_run(cls) -> "Registry":
        """Return the registry of the current run; the first saga makes it."""
        registry = cls.find()
        if registry is None:
            if cast(Any, workflow).get_query_handler(QUERY) is not None:
                raise RuntimeError(
                    f"the workflow has a query handler named {QUERY!r} of its own: rename it, "
                    "that name is where a saga shows its report"
                )
            registry = cls()
            cast(Any, workflow).set_query_handler(QUERY, registry)
        return registry

    def next_ordinal(self, name: str) -> int:
        """Return which saga of this name it is in the run, from 1."""
        self._ordinals[name] = self._ordinals.get(name, 0) + 1
        return self._ordinals[name]

    def open_sagas(self) -> list["Saga"]:
        """Return the sagas that have not ended, in order of entry."""
        return [saga for saga in self.sagas if saga._is_open]

    def __call__(self) -> list[SagaReport]:
        """Answer the query."""
        return [saga.report() for saga in self.sagas]


def report_steps(records: Iterable["StepRecord"], *, ended_well: bool = False) -> list[StepReport]:
    """Return what people see of steps. What is still armed in a saga that ended well is so no more."""
    reports: list[StepReport] = []
    for record in records:
        state = record.outcome.value if record.outcome else "RUNNING"
        undo_state = None if ended_well and record.undo_state == "PENDING" else record.undo_state
        reports.append(StepReport(record.name, record.key, state, record.undo_name, undo_state))
    return reports


def show(name: str, records: Iterable["StepRecord"]) -> None:
    """Show an unwinding saga in the Web UI, as a small table: newest step first, as they are undone."""
    armed = [record for record in records if record.undo_state is not None]
    done = sum(record.undo_state == "DONE" for record in armed)
    failed = sum(record.undo_state == "FAILED" for record in armed)
    lines = [
        f"saga **{name}**: {done} of {len(armed)} undone" + (f", {failed} failed" if failed else ""),
        "",
        "| step | state | undo | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {step.name} | {step.state} | {step.undo} | {step.undo_state} |"
        for step in report_steps(reversed(armed[-_MOST_ROWS:]))
    ]
    if len(armed) > _MOST_ROWS:
        lines.append(f"\n… and {len(armed) - _MOST_ROWS} older ones")
    workflow.set_current_details("\n".join(lines))
