"""What an exploration has tried and found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporal_saga._picture import Drawing
from temporal_saga.testing.simulator import Fault

from ._coverage import Coverage, count_of
from ._page import Chapter, Finding
from ._page import page_of as page_of_chapters


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
        about: The step that it is about: the step that the message names, or that the last fault struck.
        also_about: The other steps that the plans like it are about.
        drawing: What happened, as lanes with marks.
    """

    plan: tuple[Fault, ...]
    kind: str
    message: str
    timeline: str
    line: str
    alike: int = 0
    about: str = ""
    also_about: tuple[str, ...] = ()
    drawing: Drawing = field(default=Drawing(), repr=False)

    def __str__(self) -> str:
        return f"{self.headline}\n\n{self.timeline}\n\nTo run it again:\n\n    {self.line}\n"

    @property
    def headline(self) -> str:
        """What is wrong, and under which faults."""
        alike = f"\n({count_of(self.alike, 'more plan')} like it)" if self.alike else ""
        return f"{self.kind}: {self.message}\n{show_plan(self.plan)}{alike}"


@dataclass(frozen=True)
class Cause:
    """Violations that one bug may explain: of one plan, about one step, or of one kind after the same kind of fault.

    Attributes:
        about: The step; empty if none.
        violations: The shortest first.
    """

    about: str
    violations: tuple[Violation, ...]

    @property
    def first(self) -> Violation:
        """The violation that shows it best."""
        return self.violations[0]


@dataclass
class Exploration:
    """What was tried, what was not, and what was found.

    `print` shows it: the steps by the faults that struck them, and the violations, one timeline for each cause.

    Attributes:
        workflow: The workflow's name.
        faults: How many faults at once were tried at most.
        tried: How many plans ran.
        plan: The only plan to run; None if all were to run.
        pruned: How many plans were left out, by the reason.
        untried: How many plans the time did not allow. Plans that their runs would have led to are not counted.
        violations: One for each way of failing, the shortest plan of each, shortest first.
        without_compensation: The steps that took effect in a run that ended badly, and that no run undid.
        plain_activities: The activities that are not steps, and took effect in the scope of a saga that ended badly:
            nothing undoes them.
        parked: What some plan left waiting for a person, by the labels of its calls: a plan without a decision.
        notes: What could not be tried, and why.
        seconds: How long it took.
        coverage: How many plans held, by what their last fault struck and by its kind.
        processes: In how many processes the plans ran.
        alone: Why they ran in one process although several were wanted; empty otherwise.
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
    parked: list[str] = field(default_factory=lambda: list[str]())
    notes: list[str] = field(default_factory=lambda: list[str]())
    seconds: float = 0.0
    coverage: Coverage = field(default_factory=Coverage)
    processes: int = 1
    alone: str = ""

    @property
    def causes(self) -> list[Cause]:
        """The violations, those that one bug may explain together; the shortest plans first."""
        groups: list[list[Violation]] = []
        for violation in self.violations:
            same = [group for group in groups if any(_may_be_one_bug(violation, each) for each in group)]
            merged = [each for group in same for each in group]
            groups = [group for group in groups if group not in same]
            groups.append([*merged, violation])
        order = {id(violation): number for number, violation in enumerate(self.violations)}
        groups.sort(key=lambda group: order[id(group[0])])
        return [Cause(next((each.about for each in group if each.about), ""), tuple(group)) for group in groups]

    @property
    def summary(self) -> str:
        """How much was tried and found, in a line."""
        found = count_of(len(self.violations), "violation") if self.violations else "no violation"
        what = f"{count_of(self.tried, 'plan')} of up to {count_of(self.faults, 'fault')}"
        if self.plan is not None:
            what = f"the plan {show_plan(self.plan)}" if self.plan else "a run without any fault"
        processes = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.workflow}: {what} tried in {self.seconds:.1f} s{processes}, {found}"

    @property
    def remarks(self) -> list[str]:
        """What was left out, and what else there is to know."""
        lines = list[str]()
        if self.untried:
            untried = count_of(self.untried, "plan")
            lines.append(f"{untried} left untried, and what would follow from them: give it more time")
        lines += [f"{count} left out: {reason}" for reason, count in self.pruned.most_common()]
        if self.without_compensation:
            lines.append(f"steps without a compensation: {', '.join(self.without_compensation)}")
        if self.plain_activities:
            plain = ", ".join(self.plain_activities)
            lines.append(f"plain activities in a saga's scope, which nothing undoes: {plain}")
        if self.parked:
            lines.append(f"parked until a person decides: {', '.join(self.parked)}")
        lines += self.notes
        if self.alone and self.seconds > 1:
            lines.append(f"in one process, because {self.alone} (see processes=)")
        return lines

    def __str__(self) -> str:
        return self.text(timelines=True)

    def text(self, *, timelines: bool) -> str:
        """Return what `print` shows, with or without a timeline for each cause."""
        parts = ["\n  ".join([self.summary, *self.remarks])]
        if self.coverage.cells and self.plan is None:
            parts += [f"{_LEGEND}\n", str(self.coverage)]
        parts += [f"\n{_show_cause(number, cause, timelines)}" for number, cause in enumerate(self.causes, 1)]
        return "\n".join(parts)

    def chapter(self) -> Chapter:
        """Return it as a page shows it."""
        return Chapter(
            self.workflow,
            self.summary,
            self.coverage if self.coverage.cells and self.plan is None else None,
            tuple(self.remarks),
            tuple(map(_finding, self.causes)),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what `print` shows as one page of HTML that needs no network, its timelines as pictures.

            explore(MoneyTransfer.run, transfer, setup=Bank, faults=2, fail=False).save("report.html")

        Timelines show errors and the arguments of signals in the plans: those of your tests.

        Args:
            path: Where to write it. A file that is there is replaced.

        Returns:
            The path.
        """
        path = Path(path)
        path.write_text(page_of([self]), encoding="utf-8")
        return path


_LEGEND = "  plans by their last fault: how many held, broke a rule (x), were not tried (?)"


def _show_cause(number: int, cause: Cause, timeline: bool) -> str:
    lines = [f"{number}. {title_of(cause)}"]
    lines += [f"  {each.kind}: {show_plan(each.plan)}: {each.message}{_more(each)}" for each in cause.violations]
    if timeline:
        first = cause.first
        lines += ["", *(f"    {line}" for line in first.timeline.splitlines()), "", f"    {first.line}"]
    return "\n".join(lines)


def _finding(cause: Cause) -> Finding:
    first = cause.first
    others = ((each.kind, f"{each.message}{_more(each)}", show_plan(each.plan)) for each in cause.violations[1:])
    return Finding(
        title_of(cause),
        first.kind,
        f"{first.message}{_more(first)}",
        show_plan(first.plan),
        first.timeline,
        first.drawing,
        first.line,
        tuple(others),
    )


def title_of(cause: Cause) -> str:
    """Return what a cause is called."""
    others = dict.fromkeys(name for each in cause.violations for name in (each.about, *each.also_about))
    names = [cause.about, *(name for name in others if name and name != cause.about)]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown or 'the workflow'}: {count_of(len(cause.violations), 'way')} to fail"


def _may_be_one_bug(one: Violation, other: Violation) -> bool:
    if one.plan == other.plan or (one.about and one.about == other.about):
        return True
    # The last fault made the difference: without it the plan has held.
    return one.kind == other.kind and [fault.kind for fault in one.plan[-1:]] == [
        fault.kind for fault in other.plan[-1:]
    ]


def _more(violation: Violation) -> str:
    return f"  (and {violation.alike} like it)" if violation.alike else ""


def page_of(explorations: Sequence[Exploration], title: str = "") -> str:
    """Return explorations as a page of HTML."""
    return page_of_chapters([each.chapter() for each in explorations], title)


class ViolationError(AssertionError):
    """A plan broke a rule. The message has the shortest, with its timeline and the line that runs it again."""

    def __init__(self, exploration: Exploration) -> None:
        self.exploration = exploration
        first = exploration.violations[0]
        super().__init__(f"{first}\n{exploration.text(timelines=False)}" if exploration.tried > 1 else f"{first}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.exploration,)


def show_plan(plan: Sequence[Fault]) -> str:
    """Return a plan as it is written in a test."""
    return f"[{', '.join(map(repr, plan))}]" if plan else "without any fault"
