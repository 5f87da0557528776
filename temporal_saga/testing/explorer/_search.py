"""Which plans run, in which order, and which of them are worth more faults."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from temporal_saga.testing.simulator import Simulation, UnusedFaultsError, fails_after, inputs_of, varying

from ._bar import Bar
from ._checks import end_of
from ._exploration import Exploration
from ._findings import Findings
from ._plans import (
    PRUNED_FAILED,
    PRUNED_IDLE,
    PRUNED_ORDER,
    PRUNED_SAME_RUN,
    PRUNED_SLOW,
    PRUNED_UNSEEN,
    PRUNED_WITH,
    UNSEEN,
    Event,
    Plan,
    Points,
    comes_too_late,
    in_any_order,
    longer,
    points_of,
)
from ._runner import PlanError, Runner

W = TypeVar("W")
R = TypeVar("R")


class Search(Generic[W, R]):
    """Runs plans, shorter ones first. No run is kept, so that memory does not grow with their number."""

    def __init__(self, runner: Runner[W, R], faults: int) -> None:
        self.exploration = Exploration(runner.name.removesuffix(".run"), faults)
        self._runner = runner
        self.findings = Findings(
            self.exploration, runner.known, name=runner.name, run_again=lambda plan: runner.run(plan)[0]
        )
        self._runs: dict[int, int] = {}  # by a hash of what a run did: from which activation on faults were added to it

    def one(self, plan: Plan) -> None:
        """Run one plan, after the runs that are needed to judge it."""
        self.exploration.plan, self.exploration.tried = plan, 1
        simulation, objections = self._runner.run(())
        self._learn_end(simulation)
        if not plan:
            self.findings.note(plan, simulation, [*objections, *self._runner.check_replay(plan, simulation)])
            return
        if ended := self._runner.check_end(simulation):
            self.findings.note((), simulation, ended)
            return
        for call in points_of(simulation).calls:  # which of them have a compensation
            with suppress(UnusedFaultsError, PlanError):
                self._runner.run((fails_after(call.label, nth=call.nth),))
        seen = tuple(fault for fault in plan if fault.kind not in UNSEEN and fault.kind != "bug_after")
        if seen != plan:
            with suppress(UnusedFaultsError, PlanError):
                self._runner.known.ends[seen] = end_of(self._runner.run(seen)[0])
        try:
            simulation, objections = self._runner.run(plan)
        except PlanError as error:
            self.findings.note_error(plan, error.objection, error.shown)
            return
        self.findings.note(plan, simulation, [*objections, *self._runner.check_replay(plan, simulation)])
        self.findings.decide()

    def _learn_end(self, happy: Simulation[R]) -> None:
        """Keep how the run without any fault ended, and whether a second one ends the same."""
        known, again = self._runner.known, self._runner.run(())[0]
        known.ends[()] = end_of(happy)
        known.results_vary = end_of(again)[1] != known.ends[()][1]
        known.varying = varying(happy, again)

    def all(
        self, kinds: Collection[str], events: Sequence[Event], deadline: float | None, first: bool, bar: Bar
    ) -> None:
        """Run every plan, shorter ones first."""
        exploration = self.exploration
        tried: set[int] = set()  # hashes
        level: list[tuple[Plan, Points]] = []
        points = self._try((), Points((), 0))
        if points is not None:
            level.append(((), points))
        for depth in range(1, exploration.faults + 1):
            next_level: list[tuple[Plan, Points]] = []
            for number, (plan, points) in enumerate(level):
                for fault in longer(plan, points, kinds, events):
                    longer_plan = (*plan, fault)
                    if comes_too_late(plan, points, fault):
                        exploration.pruned[PRUNED_SLOW] += 1
                        continue
                    name = hash(in_any_order(longer_plan))
                    if name in tried:
                        exploration.pruned[PRUNED_ORDER] += 1
                        continue
                    over = deadline is not None and time.perf_counter() > deadline
                    if over or (first and exploration.violations):
                        exploration.untried += 1
                        continue
                    tried.add(name)
                    seen = self._try(longer_plan, points)
                    if seen is not None and depth < exploration.faults:
                        next_level.append((longer_plan, seen))
                bar.show(depth, number + 1, len(level), exploration)
            self.findings.decide()
            if first and exploration.violations:
                return
            level = next_level

    def _try(self, plan: Plan, before: Points) -> Points | None:
        """Run a plan; return its points if a longer one may show something new."""
        exploration = self.exploration
        try:
            simulation, objections = self._runner.run(plan)
        except UnusedFaultsError:
            exploration.pruned[PRUNED_IDLE] += 1
            return None
        except PlanError as error:
            exploration.tried += 1
            self.findings.note_error(plan, error.objection, error.shown)
            return None
        exploration.tried += 1
        if not plan:
            self._learn_end(simulation)
        elif len(plan) < exploration.faults:
            self._runner.known.ends[plan] = end_of(simulation)
        points = points_of(simulation)
        did, start = hash(fingerprint(simulation)), points.start(plan)
        is_new = self._runs.get(did, start + 1) > start
        if is_new:
            self._runs[did] = start
        if is_new and not objections:
            objections = self._runner.check_replay(plan, simulation)
        if objections:
            self.findings.note(plan, simulation, objections)
        reason = None
        if any(map(self.findings.is_certain, objections)):
            reason = PRUNED_FAILED
        elif plan and plan[-1].kind in UNSEEN:
            reason = PRUNED_UNSEEN
        elif plan and plan[-1].kind == "cancel_with":
            reason = PRUNED_WITH
        elif not is_new:
            reason = PRUNED_SAME_RUN
        if reason is not None and len(plan) < exploration.faults:
            exploration.pruned[reason] += 1
        return None if reason else points


def fingerprint(simulation: Simulation[Any]) -> tuple[Any, ...]:
    """Return what a run did and what it was told, without times and repeats: two runs with the same are alike."""
    effects = sorted(
        (attempt.ran_order, call.label, call.nth, attempt.late)
        for call in simulation.calls
        for attempt in call.attempts
        if attempt.ran and attempt.ran_order is not None
    )
    once = dict.fromkeys((label, nth, late) for _, label, nth, late in effects)
    return simulation.status, tuple(map(repr, simulation.commands)), tuple(once), inputs_of(simulation)
