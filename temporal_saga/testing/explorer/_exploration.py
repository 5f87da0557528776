"""What an exploration has tried and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporal_saga.testing.simulator import Fault


@dataclass(frozen=True)
class Violation:
    """A plan whose run broke a rule.

    Attributes:
        plan: The faults; none if the run fails without any.
        kind: What is wrong, in two or three words.
        message: In a sentence.
        timeline: What happened, as text.
        line: The call that runs this plan again, to paste.
        alike: How many other plans, with faults of the same kinds at other points, broke the same rule.
    """

    plan: tuple[Fault, ...]
    kind: str
    message: str
    timeline: str
    line: str
    alike: int = 0

    def __str__(self) -> str:
        alike = f"\n({_count(self.alike, 'more plan')} like it)" if self.alike else ""
        what = f"{self.kind}: {self.message}\n{show_plan(self.plan)}{alike}"
        return f"{what}\n\n{self.timeline}\n\nTo run it again:\n\n    {self.line}\n"


@dataclass
class Exploration:
    """What was tried, what was not, and what was found.

    Attributes:
        workflow: The workflow's name.
        faults: How many faults at once were tried at most.
        tried: How many plans ran.
        plan: The one plan that was to run; None if all were.
        pruned: How many plans were left out, by the reason.
        untried: How many plans the time did not allow. Plans that their runs would have led to are not counted.
        violations: One for each way of failing, the shortest plan of each, shortest first.
        without_compensation: The steps that took effect in a run that ended badly, and that no run undid.
        plain_activities: The activities that are no steps, and took effect in the scope of a saga that ended badly:
            nothing undoes them.
        notes: What could not be tried, and why.
        seconds: How long it took.
    """

    workflow: str
    faults: int
    tried: int = 0
    plan: tuple[Fault, ...] | None = None
    pruned: Counter[str] = field(default_factory=lambda: Counter[str]())
    untried: int = 0
    violations: list[Violation] = field(default_factory=lambda: list[Violation]())
    without_compensation: list[str] = field(default_factory=lambda: list[str]())
    plain_activities: list[str] = field(default_factory=lambda: list[str]())
    notes: list[str] = field(default_factory=lambda: list[str]())
    seconds: float = 0.0

    def __str__(self) -> str:
        found = _count(len(self.violations), "violation") if self.violations else "no violation"
        what = f"{_count(self.tried, 'plan')} of up to {_count(self.faults, 'fault')}"
        if self.plan is not None:
            what = f"the plan {show_plan(self.plan)}" if self.plan else "a run without any fault"
        lines = [f"{self.workflow}: {what} tried in {self.seconds:.1f} s, {found}"]
        if self.untried:
            untried = _count(self.untried, "plan")
            lines.append(f"  {untried} left untried, and what would follow from them: give it more time")
        lines += [f"  {count} left out: {reason}" for reason, count in self.pruned.most_common()]
        if self.without_compensation:
            lines.append(f"  steps without a compensation: {', '.join(self.without_compensation)}")
        if self.plain_activities:
            lines.append(
                f"  plain activities in a saga's scope, which nothing undoes: {', '.join(self.plain_activities)}"
            )
        lines += [f"  {note}" for note in self.notes]
        for violation in self.violations:
            alike = f"  (and {violation.alike} like it)" if violation.alike else ""
            lines.append(f"  {violation.kind}: {show_plan(violation.plan)}: {violation.message}{alike}")
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class ViolationError(AssertionError):
    """A plan broke a rule. The message has the shortest, with its timeline and the line that runs it again."""

    def __init__(self, exploration: Exploration) -> None:
        self.exploration = exploration
        first = exploration.violations[0]
        super().__init__(f"{first}\n{exploration}" if exploration.tried > 1 else f"{first}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.exploration,)


def show_plan(plan: Sequence[Fault]) -> str:
    """Return a plan as it is written in a test."""
    return f"[{', '.join(map(repr, plan))}]" if plan else "without any fault"
