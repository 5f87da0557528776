"""What is wrong, sorted: certain or in doubt, the same as another or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temporal_saga.testing.simulator import Simulation

from ._checks import Known, Objection
from ._exploration import Exploration, Violation
from ._plans import Plan, kinds_alike

_MOST_SHOWN = 20


@dataclass
class _Doubt:
    """An objection that holds only if some run shows that its label has a compensation."""

    plan: Plan
    objection: Objection
    alike: int = 0


class Findings:
    """Turns objections to runs into the violations of an exploration, one for each way to fail."""

    def __init__(
        self, exploration: Exploration, known: Known, *, name: str, run_again: Callable[[Plan], Simulation[Any]]
    ) -> None:
        self._exploration = exploration
        self._known = known
        self._name = name
        self._run_again = run_again
        self._doubts: dict[tuple[Any, ...], _Doubt] = {}
        self._found: dict[tuple[str, tuple[str, ...]], int] = {}  # which violation stands for which way to fail

    def note(self, plan: Plan, simulation: Simulation[Any], objections: Sequence[Objection]) -> None:
        """Keep objections: certain ones as violations, the others until the end."""
        for objection in objections:
            if self.is_certain(objection):
                self._violation(plan, simulation, objection)
                continue
            way = (objection.kind, objection.if_compensated, kinds_alike(plan))
            if way in self._doubts:
                self._doubts[way].alike += 1
            else:
                self._doubts[way] = _Doubt(plan, objection)

    def is_certain(self, objection: Objection) -> bool:
        """Whether nothing that other runs may show can refute the objection."""
        return objection.if_compensated is None or objection.if_compensated in self._known.compensated

    def decide(self) -> None:
        """Decide what was in doubt, now that more is known about which steps have compensations."""
        for way, doubt in list(self._doubts.items()):
            if self.is_certain(doubt.objection):
                del self._doubts[way]
                self._violation(doubt.plan, None, doubt.objection, doubt.alike)
        self._exploration.without_compensation = sorted(self._known.applied - self._known.compensated)
        self._exploration.plain_activities = sorted(self._known.plain)

    def note_error(self, plan: Plan, objection: Objection, shown: str) -> None:
        """Keep a plan whose run there is nothing to see of."""
        self._violation(plan, shown, objection)

    def _violation(
        self, plan: Plan, simulation: Simulation[Any] | str | None, objection: Objection, alike: int = 0
    ) -> None:
        violations = self._exploration.violations
        way = (objection.kind, kinds_alike(plan))
        shorter = (kinds for kind, kinds in self._found if kind == objection.kind and kinds != way[1])
        if any(not Counter(kinds) - Counter(way[1]) for kinds in shorter):
            return  # nothing new: a part of this plan is enough
        number = self._found.get(way)
        if number is not None:
            if violations[number].plan != plan:
                violations[number] = replace(violations[number], alike=violations[number].alike + 1 + alike)
            return
        if len(violations) >= _MOST_SHOWN:
            return
        if simulation is None:
            simulation = self._run_again(plan)
        self._found[way] = len(violations)
        shown = str(simulation)
        violations.append(Violation(plan, objection.kind, objection.message, shown, self._line(plan), alike))

    def _line(self, plan: Plan) -> str:
        return f"explore({self._name}, ..., plan=[{', '.join(map(repr, plan))}])"
