"""One plan, run and read: what is kept of a run once the run is gone. It travels between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

from temporal_saga._picture import Drawing
from temporal_saga.testing.simulator import Simulation, UnusedFaultsError, inputs_of

from ._checks import Known, Objection, end_of
from ._lanes import drawing_of
from ._plans import Plan, Points, Rests, depth_of, points_of
from ._rest import number_of, rests_of, story_of
from ._runner import PlanError, Runner

W = TypeVar("W")
R = TypeVar("R")


@dataclass(frozen=True)
class Shown:
    """A run, for people.

    Attributes:
        timeline: As text.
        drawing: As lanes with marks.
        labels: The labels of its calls.
    """

    timeline: str
    drawing: Drawing
    labels: tuple[str, ...]

    @classmethod
    def without_a_run(cls, error: PlanError) -> Shown:
        """Return what there is to show of a plan that cannot be run."""
        return cls(error.shown, Drawing(), ())


@dataclass
class Look:
    """What a run has shown.

    Attributes:
        is_idle: Whether a fault found nothing to strike: then there is nothing else.
        objections: What is wrong with it.
        replay: What a replay does differently; looked at only if the rest is new to this process.
        did: A number for what it did and was told.
        points: Where a further fault can strike; None if no further one is tried.
        end: What it came to; None if no further fault is tried.
        labels: The labels of the calls of its activities, in order.
        shown: The run for people, if there is an objection.
        learned: What was new in it for `Known`, by the name of a set there.
    """

    is_idle: bool = False
    objections: list[Objection] = field(default_factory=lambda: list[Objection]())
    replay: list[Objection] = field(default_factory=lambda: list[Objection]())
    did: int = 0
    points: Points | None = None
    end: tuple[Any, ...] | None = None
    labels: tuple[str, ...] = ()
    shown: Shown | None = None
    learned: dict[str, set[str]] = field(default_factory=lambda: dict[str, set[str]]())


class Looker(Generic[W, R]):
    """Runs a plan and reads what the search needs to know of it."""

    def __init__(self, runner: Runner[W, R], faults: int) -> None:
        self.runner = runner
        self._faults = faults
        self._seen: set[int] = set()

    def look(self, plan: Plan) -> Look:
        """Run a plan in a fresh world and read the run."""
        known = self.runner.known
        before = {name: set(values) for name, values in _sets(known)}
        try:
            look = self.read(plan, *self.runner.run(plan))
        except UnusedFaultsError:
            return Look(is_idle=True)
        except PlanError as error:
            return Look(objections=[error.objection], shown=Shown.without_a_run(error))
        look.learned = {name: values - before[name] for name, values in _sets(known) if values - before[name]}
        return look

    def read(self, plan: Plan, simulation: Simulation[R], objections: list[Objection]) -> Look:
        """Read a run of a plan."""
        look = Look(objections=objections, did=number_of(fingerprint(simulation)))
        # Each process looks at its plans in their order: what is new in the order of all plans is new to its process.
        if not objections and look.did not in self._seen:
            look.replay = self.runner.check_replay(plan, simulation)
        self._seen.add(look.did)
        look.labels = tuple(dict.fromkeys(call.label for call in simulation.calls if call.kind == "activity"))
        if depth_of(plan) < self._faults or not plan or any(call.was_parked for call in simulation.calls):
            look.points, look.end = points_with_rests(simulation), end_of(simulation)
        if look.objections or look.replay:
            look.shown = shown(simulation)
        return look


def learn(known: Known, learned: dict[str, set[str]]) -> None:
    """Add what a run in another process has shown."""
    for name, values in learned.items():
        getattr(known, name).update(values)


def _sets(known: Known) -> list[tuple[str, set[str]]]:
    values = ((each.name, getattr(known, each.name)) for each in fields(known))
    return [(name, value) for name, value in values if isinstance(value, set)]


def points_with_rests(simulation: Simulation[Any]) -> Points:
    """Return where a fault can strike in a run, with what is left of the run there."""
    points = points_of(simulation)
    keys = {(call.label, call.nth): call.forward_key for call in simulation.calls}
    keys |= {(call.label_in_workflow, call.nth_in_workflow): call.forward_key for call in simulation.calls}
    stories = {
        (call.label, call.nth): story_of(simulation, keys[call.label, call.nth])
        for call in points.calls
        if call.is_undone
    }
    return replace(points, rests=Rests(rests_of(simulation), stories))


def shown(simulation: Simulation[Any]) -> Shown:
    """Return a run for people."""
    labels = tuple(dict.fromkeys(call.label for call in simulation.calls))
    return Shown(str(simulation), drawing_of(simulation), labels)


def shown_by(run: Callable[[Plan], Simulation[Any]]) -> Callable[[Plan], Shown]:
    """Return a function that runs a plan again, for people."""
    return lambda plan: shown(run(plan))


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
