"""What is wrong, sorted: certain or in doubt, the same as another or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from temporal_saga.testing.simulator import ActivityFault

from ._checks import Known, Objection
from ._exploration import Exploration, Violation
from ._lanes import step_of_label
from ._look import Shown
from ._order import Pair, pair_of
from ._plans import Plan, kinds_alike

_MOST_SHOWN = 20


@dataclass
class _Doubt:
    """An objection that holds only if some run shows that its label has a compensation."""

    plan: Plan
    objection: Objection
    alike: int = 0
    pairs: Counter[Pair] = field(default_factory=lambda: Counter[Pair]())
    """What the last faults of such plans covered."""


class Findings:
    """Turns objections to runs into the violations of an exploration, one for each way to fail."""

    def __init__(
        self, exploration: Exploration, known: Known, *, name: str, run_again: Callable[[Plan], Shown]
    ) -> None:
        self._exploration = exploration
        self._known = known
        self._name = name
        self._run_again = run_again
        self._doubts: dict[tuple[Any, ...], _Doubt] = {}
        self._found: dict[tuple[str, tuple[str, ...]], int] = {}  # which violation stands for which way to fail

    def note(self, plan: Plan, shown: Shown | None, objections: Sequence[Objection]) -> None:
        """Keep objections: certain ones as violations, the others until the end."""
        pairs = Counter[Pair]([pair_of(plan[-1])] if plan else [])
        if any(map(self.is_certain, objections)):
            self._tally(pairs)
            pairs = Counter[Pair]()
        for objection in objections:
            if self.is_certain(objection):
                self._violation(plan, shown, objection)
                continue
            way = (objection.kind, objection.if_compensated, kinds_alike(plan))
            if way in self._doubts:
                self._doubts[way].alike += 1
            else:
                self._doubts[way] = _Doubt(plan, objection)
            self._doubts[way].pairs += pairs
            pairs = Counter[Pair]()

    def is_certain(self, objection: Objection) -> bool:
        """Whether nothing that other runs may show can refute the objection."""
        return objection.if_compensated is None or objection.if_compensated in self._known.compensated

    def decide(self) -> None:
        """Decide what was in doubt, now that more is known about which steps have compensations."""
        for way, doubt in list(self._doubts.items()):
            if self.is_certain(doubt.objection):
                del self._doubts[way]
                self._tally(doubt.pairs)
                self._violation(doubt.plan, None, doubt.objection, doubt.alike)
        self._exploration.without_compensation = sorted(self._known.applied - self._known.compensated)
        self._exploration.plain_activities = sorted(self._known.plain)
        self._exploration.parked = sorted(self._known.parked)

    def _violation(self, plan: Plan, shown: Shown | None, objection: Objection, alike: int = 0) -> None:
        violations = self._exploration.violations
        way = (objection.kind, kinds_alike(plan))
        shorter = (kinds for kind, kinds in self._found if kind == objection.kind and kinds != way[1])
        if any(not Counter(kinds) - Counter(way[1]) for kinds in shorter):
            return  # nothing new: a part of this plan is enough
        number = self._found.get(way)
        if number is not None:
            if violations[number].plan != plan:
                violations[number] = self._with_alike(violations[number], plan, shown, objection, alike + 1)
            return
        if len(violations) >= _MOST_SHOWN:
            return
        if shown is None:
            shown = self._run_again(plan)
        self._found[way] = len(violations)
        about = _about(plan, objection, shown.labels)
        what = (objection.kind, objection.message, shown.timeline, self._line(plan))
        violations.append(Violation(plan, *what, alike, about, drawing=shown.drawing))

    def _with_alike(
        self, violation: Violation, plan: Plan, shown: Shown | None, objection: Objection, alike: int
    ) -> Violation:
        about = _about(plan, objection, shown.labels if shown is not None else ())
        also = violation.also_about
        if about not in ("", violation.about, *also):
            also = (*also, about)
        return replace(violation, alike=violation.alike + alike, also_about=also)

    def _tally(self, pairs: Counter[Pair]) -> None:
        """Count plans that broke a rule; they have been counted as ones that held."""
        for pair, count in pairs.items():
            tally = self._exploration.coverage.at(*pair)
            tally.held, tally.violated = max(0, tally.held - count), tally.violated + count

    def _line(self, plan: Plan) -> str:
        return f"explore({self._name}, ..., plan=[{', '.join(map(repr, plan))}])"


def _about(plan: Plan, objection: Objection, labels: Sequence[str]) -> str:
    """Return the step that an objection is about."""
    named = [label for label in labels if objection.message.startswith(f"{label} ")]
    struck = [fault.label for fault in plan if isinstance(fault, ActivityFault)]
    about = objection.if_compensated or next(iter(named), None) or next(reversed(struck), "")
    return step_of_label(about)
