"""Which plans run, in which order, and which of them are worth more faults."""

from __future__ import annotations

import random  # noqa: TID251 - not in a workflow
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Generic, TypeVar

from temporal_saga.testing.simulator import Fault, Simulation, UnusedFaultsError, fails_after, varying

from ._bar import Bar
from ._checks import Objection, end_of
from ._exploration import Exploration
from ._findings import Findings
from ._look import Look, Looker, Shown, learn, shown, shown_by
from ._order import Candidate, Plans, ends_of_each, in_rounds, pair_of
from ._plans import (
    PRUNED_FAILED,
    PRUNED_IDLE,
    PRUNED_LATE,
    PRUNED_ORDER,
    PRUNED_REST,
    PRUNED_SAME_RUN,
    PRUNED_SLOW,
    PRUNED_UNSEEN,
    PRUNED_WITH,
    Event,
    Plan,
    Points,
    comes_late,
    comes_too_late,
    decisions,
    depth_of,
    in_any_order,
    is_unseen,
    longer,
    points_of,
)
from ._processes import Looks
from ._rest import number_of
from ._runner import PlanError, Runner, not_fresh

W = TypeVar("W")
R = TypeVar("R")

_AT_ONCE = 50_000
"""How many plans are put in order at once: what is kept of them is what the search needs most memory for."""

Level = list[tuple[Plan, Points]]


class Search(Generic[W, R]):
    """Runs plans, shorter ones first. No run is kept, so that memory does not grow with their number."""

    def __init__(self, runner: Runner[W, R], faults: int) -> None:
        self.exploration = Exploration(runner.name.removesuffix(".run"), faults)
        self.looker: Looker[W, R] = Looker(runner, faults)
        self._runner = runner
        self.findings = Findings(
            self.exploration, runner.known, name=runner.name, run_again=shown_by(lambda plan: runner.run(plan)[0])
        )
        self._runs: dict[int, int] = {}  # by what a run did: from which activation on faults were added to it
        self._tried: set[int] = set()
        self._rests: set[int] = set()  # what plans have struck
        self._faults: list[Fault] = []
        self._number_of_fault: dict[str, int] = {}

    def one(self, plan: Plan) -> None:
        """Run one plan, after the runs that are needed to judge it."""
        self.exploration.plan, self.exploration.tried = plan, 1
        simulation, objections = self._runner.run(())
        self._learn_end(simulation)
        if not plan:
            self._note(plan, simulation, objections)
            return
        if ended := self._runner.check_end(simulation):
            self.findings.note((), shown(simulation), ended)
            return
        for call in points_of(simulation).calls:  # which of them have a compensation
            with suppress(UnusedFaultsError, PlanError):
                self._runner.run((fails_after(call.label, nth=call.nth),))
        seen = tuple(fault for fault in plan if not is_unseen(fault) and fault.kind != "bug_after")
        if seen != plan:
            with suppress(UnusedFaultsError, PlanError):
                self._runner.known.ends[seen] = end_of(self._runner.run(seen)[0])
        self._count(plan)
        try:
            simulation, objections = self._runner.run(plan)
        except PlanError as error:
            self.findings.note(plan, Shown.without_a_run(error), [error.objection])
            return
        self._note(plan, simulation, objections)
        self.findings.decide()

    def _note(self, plan: Plan, simulation: Simulation[R], objections: Sequence[Objection]) -> None:
        objections = [*objections, *self._runner.check_replay(plan, simulation)]
        if objections:
            self.findings.note(plan, shown(simulation), objections)

    def _learn_end(self, happy: Simulation[R]) -> list[Objection]:
        """Keep how the run without any fault ended, and whether a second one does; return objections to the second."""
        known, (again, objections) = self._runner.known, self._runner.run(())
        known.ends[()] = end_of(happy)
        known.results_vary = any(end_of(each)[1] != known.ends[()][1] for each in (again, *happy.runs))
        known.varying |= varying(happy, again)
        return objections

    def first(self) -> Points | None:
        """Run the workflow without any fault; return where faults can strike, or None if it fails already."""
        simulation, objections = self._runner.run(())
        again = self._learn_end(simulation)
        objections = objections or not_fresh(again)
        return self._judge((), self.looker.read((), simulation, objections))

    def all(
        self,
        kinds: Collection[str],
        events: Sequence[Event],
        *,
        points: Points,
        deadline: float | None,
        first: bool,
        seed: int,
        looks: Looks,
        bar: Bar,
    ) -> None:
        """Run every plan that a run without any fault leads to, shorter ones first."""
        exploration = self.exploration
        shuffled = random.Random(seed) if deadline is not None else None
        level: Level = [((), points)]
        for depth in range(1, exploration.faults + 1):
            next_level: Level = []
            answered = 0  # up to here, what is parked has been decided about
            found = self._candidates(level, lambda plan, points: longer(plan, points, kinds, events))
            while True:
                at_once = list(islice(found, _AT_ONCE))
                if not at_once:
                    # Then what a person decides: an answer, and no fault. It may park something else.
                    level, answered = next_level[answered:], len(next_level)
                    found = self._candidates(level, lambda plan, points: decisions(plan, points, kinds))
                    at_once = list(islice(found, _AT_ONCE))
                    if not at_once or (first and exploration.violations):
                        break
                kept, left_out = ends_of_each(at_once, self._rests)
                self._rests.update(rest for _, _, rest, _ in at_once)
                if left_out:
                    exploration.pruned[PRUNED_REST] += left_out
                ordered = in_rounds(kept, self._faults, shuffled)
                plans = Plans([plan for plan, _ in level], self._faults, ordered)
                self._run(plans, next_level, deadline, first, looks, bar, depth)
            self.findings.decide()
            if first and exploration.violations:
                return
            level = next_level

    def _candidates(self, level: Level, further: Callable[[Plan, Points], Iterable[Fault]]) -> Iterator[Candidate]:
        """Yield the plans that are longer by a fault than those of a level, but for those that show nothing new."""
        exploration = self.exploration
        for number, (plan, points) in enumerate(level):
            undos = {call.label for call in points.calls if call.is_undo}
            for fault in further(plan, points):
                if comes_too_late(plan, points, fault):
                    exploration.pruned[PRUNED_SLOW] += 1
                    continue
                longer_plan = (*plan, fault)
                name = hash(in_any_order(longer_plan))
                if name in self._tried:
                    exploration.pruned[PRUNED_ORDER] += 1
                    continue
                self._tried.add(name)
                struck = points.what_is_struck(fault)
                # A rest holds no times: how late it is by then depends on what else was slow.
                rest = number_of(struck if points.only is None else (struck, plan))
                yield number, self._number(fault), rest, pair_of(fault)[0] in undos

    def _number(self, fault: Fault) -> int:
        """Return the number of a fault; the arguments of a signal may have no hash."""
        number = self._number_of_fault.setdefault(repr(fault), len(self._faults))
        if number == len(self._faults):
            self._faults.append(fault)
        return number

    def _run(
        self,
        plans: Sequence[Plan],
        next_level: Level,
        deadline: float | None,
        first: bool,
        looks: Looks,
        bar: Bar,
        depth: int,
    ) -> None:
        exploration = self.exploration

        def is_over() -> bool:
            late = deadline is not None and time.perf_counter() > deadline
            return late or (first and bool(exploration.violations))

        done = 0
        bar.begin(depth, len(plans))
        for plan, look in zip(plans, looks.each(plans, is_over), strict=False):
            done += 1
            points = self._judge(plan, look)
            if points is not None:
                next_level.append((plan, points))
            bar.show(done, exploration)
            if first and exploration.violations:
                break
        for plan in plans[done:]:
            exploration.untried += 1
            exploration.coverage.at(*pair_of(plan[-1])).untried += 1

    def _count(self, plan: Plan) -> None:
        """Count a plan as one that held, until there is an objection."""
        if plan:
            self.exploration.coverage.at(*pair_of(plan[-1])).held += 1

    def _judge(self, plan: Plan, look: Look) -> Points | None:
        """Judge what a plan has shown; return its points if a longer one may show something new."""
        exploration = self.exploration
        if look.is_idle:
            exploration.pruned[PRUNED_IDLE] += 1
            return None
        exploration.tried += 1
        self._count(plan)
        exploration.coverage.see(look.labels)
        learn(self._runner.known, look.learned)
        points, objections = look.points, look.objections
        if points is None:
            is_new = look.did not in self._runs
            self._runs.setdefault(look.did, 0)
        else:
            self._runner.known.ends[plan] = look.end or ()
            start = points.start(plan)
            is_new = self._runs.get(look.did, start + 1) > start
            if is_new:
                self._runs[look.did] = start
        if is_new and not objections:
            objections = look.replay
        if objections:
            self.findings.note(plan, look.shown, objections)
        reason = None
        if any(map(self.findings.is_certain, objections)):
            reason = PRUNED_FAILED
        elif plan and is_unseen(plan[-1]):
            reason = PRUNED_UNSEEN
        elif plan and comes_late(plan[-1]):
            reason = PRUNED_LATE
        elif plan and plan[-1].kind == "cancel_with":
            reason = PRUNED_WITH
        elif not is_new:
            reason = PRUNED_SAME_RUN
            if points is not None and plan and plan[-1].kind == "slow":
                return replace(points, only="slow")  # it did the same, but later
        if reason is not None and depth_of(plan) < exploration.faults:
            exploration.pruned[reason] += 1
        return None if reason else points
