"""Tries a failure and a cancel at every point of a workflow, and says which of them loses money.

    def setup() -> Bank:
        bank = Bank()                # a fresh world for each run
        bank.open_account("A", 100)
        return bank                  # with `bank.activities`

    def test_no_fault_loses_money() -> None:
        explore(MoneyTransfer.run, Transfer("A", "B", 30), setup=setup, check=lambda bank, _: bank.total() == 100)

Shorter plans come before longer ones, so that the first that fails is a shortest.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

from temporalio.exceptions import TemporalError

from ._checks import Known, Objection, check_replay, check_run, end_of, undo_failed
from ._errors import SimulationError, UnusedFaultsError
from ._faults import Fault, fails_after
from ._plans import (
    KINDS,
    PRUNED_FAILED,
    PRUNED_IDLE,
    PRUNED_ORDER,
    PRUNED_SAME_RUN,
    PRUNED_SLOW,
    PRUNED_UNSEEN,
    PRUNED_WITH,
    UNSEEN,
    Event,
    FaultKind,
    Plan,
    Points,
    check_choice,
    check_faults,
    comes_too_late,
    events_of,
    in_any_order,
    kinds_alike,
    longer,
    points_of,
)
from ._simulation import Simulation, simulate, told_to
from ._timeline import timeline, why

if TYPE_CHECKING:
    from ._simulation import End

W = TypeVar("W")
R = TypeVar("R")

_MOST_SHOWN = 20


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
        faults: Up to how many faults at once were to be tried.
        tried: How many plans ran.
        plan: The plan that alone was to run; None if all were.
        pruned: How many plans were left out, by the reason.
        untried: How many plans the time did not suffice for, without those that would follow from their runs.
        violations: One for each way of failing, the shortest plan of each, shortest first.
        without_compensation: The steps that took effect in a run that ended badly, and that no run undoes.
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


def explore(
    workflow_run: Callable[..., Awaitable[R]],
    *args: Any,
    setup: Callable[[], W],
    check: Callable[[W, Simulation[R]], object] | None = None,
    ends: End = "completed",
    faults: int = 1,
    plan: Sequence[Fault] | None = None,
    within: timedelta | None = None,
    kinds: Collection[FaultKind] = KINDS,
    signals: Sequence[Any] = (),
    updates: Sequence[Any] = (),
    first: bool = False,
    fail: bool = True,
    progress: bool | None = None,
    **options: Any,
) -> Exploration:
    """Run a workflow once for each combination of up to `faults` faults, and check each run.

    Args:
        workflow_run: The workflow's run method, as in `client.execute_workflow`.
        args: Its arguments.
        setup: Makes the world of a run: an object whose `activities` are a list, or that list itself. If it has a
            `client`, an async function of the workflow's handle, that plays the client. If it has a `close`, that is
            called after the run.
        check: Is called with the world and the simulation after each run; it raises or returns False to object. Not
            after one in which faults made compensations fail for good: what those should have undone stands, and what
            is checked is that the run says so.
        ends: How the run without any fault ends. If it ends otherwise, that is a violation, and no fault is tried.
        faults: Up to how many faults at once.
        plan: Run these faults only.
        within: The longest time to take, by the clock on the wall. What was left untried is said.
        kinds: The kinds of faults to try; all of them by default.
        signals: Signals to try at every point: names, or tuples of a name and arguments.
        updates: Updates, in the same way.
        first: Stop at the first violation; by default one is looked for of each kind.
        fail: Raise if there is a violation.
        progress: Show a bar on stderr; by default on a terminal only.
        options: For `simulate`.

    Returns:
        What was tried and found.

    Raises:
        ViolationError: A plan broke a rule. It is an AssertionError.
        TypeError: An argument cannot be.
        ValueError: An argument cannot be, or faults of `plan` found nothing to strike.
    """
    __tracebackhide__ = True
    check_choice(faults, kinds, within)
    check_faults("plan", plan or ())
    events = events_of(signals, updates)
    explorer = Explorer(workflow_run, args, setup, check, faults, options, ends)
    started = time.perf_counter()
    with _quiet():
        if plan is not None:
            explorer.one(tuple(plan))
        else:
            deadline = None if within is None else started + within.total_seconds()
            with _Bar(progress) as bar:
                explorer.all(frozenset(kinds), events, deadline, first, bar)
    exploration = explorer.exploration
    exploration.violations.sort(key=lambda violation: len(violation.plan))
    exploration.seconds = time.perf_counter() - started
    if exploration.violations and fail:
        raise ViolationError(exploration)
    return exploration


@dataclass
class _Doubt:
    """An objection that holds only if some run shows that the label has a compensation."""

    plan: Plan
    objection: Objection
    alike: int = 0


class Explorer(Generic[W, R]):
    """Runs plans and keeps what they show: no run is kept, so that memory does not grow with their number."""

    def __init__(
        self,
        workflow_run: Callable[..., Awaitable[R]],
        args: tuple[Any, ...],
        setup: Callable[[], W],
        check: Callable[[W, Simulation[R]], object] | None,
        faults: int,
        options: dict[str, Any],
        ends: End = "completed",
    ) -> None:
        _check_options(options)
        if not callable(setup):
            raise TypeError(f"setup={setup!r} is no function: give one that makes a fresh world for each run")
        self._workflow_run = workflow_run
        self._args = args
        self._setup = setup
        self._check = check
        self._options = options
        self._ends = ends
        self._known = Known()
        self._doubts: dict[tuple[Any, ...], _Doubt] = {}
        self._runs: dict[int, int] = {}  # by a hash of what a run did: from which activation on faults were added to it
        self._found: dict[tuple[str, tuple[str, ...]], int] = {}  # which violation stands for which way to fail
        self._name: str = getattr(workflow_run, "__qualname__", str(workflow_run))
        self.exploration = Exploration(self._name.removesuffix(".run"), faults)

    def run(self, plan: Plan) -> tuple[Simulation[R], list[Objection]]:
        """Run one plan in a fresh world and check it."""
        with _quiet():
            return self._run(plan)

    def _run(self, plan: Plan) -> tuple[Simulation[R], list[Objection]]:
        world: Any = self._setup()
        if world is None or _is_unfinished(world):
            raise TypeError("setup has to be a plain function that returns the world: not async, and without yield")
        raised: list[Objection] = []
        try:
            simulation = self._simulate(world, plan, raised)
            ended = [] if plan else self._end(simulation)
            objections = [*raised, *ended, *check_run(simulation, plan, self._known)]
            if self._check is not None and not undo_failed(simulation):
                objections += self._users(world, simulation)
        finally:
            close = getattr(world, "close", None)
            if close is not None:
                close()
        return simulation, objections

    def one(self, plan: Plan) -> None:
        """Run a plan alone, with what has to be known to judge it."""
        self.exploration.plan, self.exploration.tried = plan, 1
        simulation, objections = self.run(())
        self._learn_end(simulation)
        if not plan:
            self._note(plan, simulation, [*objections, *check_replay(simulation)])
            return
        if ended := self._end(simulation):
            self._note((), simulation, ended)
            return
        for call in points_of(simulation).calls:  # which of them have a compensation
            with suppress(UnusedFaultsError):
                self.run((fails_after(call.label, nth=call.nth),))
        seen = tuple(fault for fault in plan if fault.kind not in UNSEEN and fault.kind != "bug_after")
        if seen != plan:
            with suppress(UnusedFaultsError):
                self._known.ends[seen] = end_of(self.run(seen)[0])
        simulation, objections = self.run(plan)
        self._note(plan, simulation, [*objections, *check_replay(simulation)])
        self._decide()

    def _learn_end(self, happy: Simulation[R]) -> None:
        """Keep what the run without any fault came to, and whether a second one comes to the same."""
        self._known.ends[()] = end_of(happy)
        self._known.results_vary = end_of(self.run(())[0])[1] != self._known.ends[()][1]

    def all(
        self, kinds: Collection[str], events: Sequence[Event], deadline: float | None, first: bool, bar: _Bar
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
            self._decide()
            if first and exploration.violations:
                return
            level = next_level

    def _try(self, plan: Plan, before: Points) -> Points | None:
        """Run a plan; return its points if a longer one may show something new."""
        exploration = self.exploration
        try:
            simulation, objections = self.run(plan)
        except UnusedFaultsError:
            exploration.pruned[PRUNED_IDLE] += 1
            return None
        exploration.tried += 1
        if not plan:
            self._learn_end(simulation)
        elif len(plan) < exploration.faults:
            self._known.ends[plan] = end_of(simulation)
        points = points_of(simulation)
        did, start = hash(did_of(simulation)), points.start(plan)
        is_new = self._runs.get(did, start + 1) > start
        if is_new:
            self._runs[did] = start
        if is_new and not objections:
            objections = check_replay(simulation)
        if objections:
            self._note(plan, simulation, objections)
        reason = None
        if any(map(self._is_certain, objections)):
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

    def _simulate(self, world: Any, plan: Plan, raised: list[Objection]) -> Simulation[R]:
        activities: Any = getattr(world, "activities", world)
        if not hasattr(activities, "__iter__"):
            raise TypeError(
                f"the world that setup returned, {type(world).__name__}, has no list of activities: "
                "give it one as its attribute `activities`, or return such a list"
            )
        options = dict(self._options)
        client = options.get("client") or getattr(world, "client", None)
        if client is not None:
            options["client"] = _noting_errors(client, plan, raised)
        workflow_run: Any = self._workflow_run
        return simulate(workflow_run, *self._args, activities=activities, faults=plan, **options)

    def _end(self, happy: Simulation[R]) -> list[Objection]:
        """Object to how the run without any fault ended: then no other shows anything."""
        if happy.status in (self._ends, "waiting"):  # a run that never ends is objected to as such
            return []
        because = f": {why(happy)}" if happy.status == "failed" else ""
        hint = f'if it is to end so, say ends="{happy.status}"'
        return [Objection("ends otherwise", f"it ended {happy.status}, and not {self._ends}{because} ({hint})")]

    def _users(self, world: W, simulation: Simulation[R]) -> list[Objection]:
        assert self._check is not None
        try:
            answer: object = self._check(world, simulation)
        except AssertionError as error:
            return [Objection("the check objects", _first_line(error) or "an assertion")]
        except Exception as error:
            return [Objection("the check raises", f"{type(error).__name__}: {_first_line(error)}")]
        if _is_unfinished(answer):
            raise TypeError("check has to be a plain function: not async, and without yield; it has not run")
        return [Objection("the check objects", "the check returned False")] if answer is False else []

    def _note(self, plan: Plan, simulation: Simulation[R], objections: Sequence[Objection]) -> None:
        """Keep what is wrong: certain as a violation, in doubt until the end."""
        for objection in objections:
            if self._is_certain(objection):
                self._violation(plan, simulation, objection)
                continue
            way = (objection.kind, objection.if_compensated, kinds_alike(plan))
            if way in self._doubts:
                self._doubts[way].alike += 1
            else:
                self._doubts[way] = _Doubt(plan, objection)

    def _is_certain(self, objection: Objection) -> bool:
        return objection.if_compensated is None or objection.if_compensated in self._known.compensated

    def _violation(self, plan: Plan, simulation: Simulation[R] | None, objection: Objection, alike: int = 0) -> None:
        violations = self.exploration.violations
        way = (objection.kind, kinds_alike(plan))
        shorter = (kinds for kind, kinds in self._found if kind == objection.kind and kinds != way[1])
        if any(not Counter(kinds) - Counter(way[1]) for kinds in shorter):
            return  # nothing new: a part of the plan does it
        number = self._found.get(way)
        if number is not None:
            if violations[number].plan != plan:
                violations[number] = replace(violations[number], alike=violations[number].alike + 1 + alike)
            return
        if len(violations) >= _MOST_SHOWN:
            return
        if simulation is None:
            simulation, _ = self.run(plan)
        self._found[way] = len(violations)
        shown = timeline(simulation)
        violations.append(Violation(plan, objection.kind, objection.message, shown, self._line(plan), alike))

    def _decide(self) -> None:
        """Decide what was in doubt, now that more is known of which steps have compensations."""
        for way, doubt in list(self._doubts.items()):
            if self._is_certain(doubt.objection):
                del self._doubts[way]
                self._violation(doubt.plan, None, doubt.objection, doubt.alike)
        self.exploration.without_compensation = sorted(self._known.applied - self._known.compensated)

    def _line(self, plan: Plan) -> str:
        return f"explore({self._name}, ..., plan=[{', '.join(map(repr, plan))}])"


def _check_options(options: Collection[str]) -> None:
    """Raise if there are options that neither `explore` nor `simulate` has, as `explore` hands its own on."""
    own = {"workflow_run", "args", "activities", "faults"}
    known = inspect.signature(simulate).parameters.keys() - own
    of_explore = inspect.signature(explore).parameters
    for name in options:
        if name in of_explore:
            raise TypeError(f"{name}= is an option of explore, not of fault_plans")
        if name not in known:
            near = difflib.get_close_matches(name, [*of_explore, *known], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see explore and simulate"
            if name == "activities":
                hint = "they are those of the world that setup makes"
            raise TypeError(f"explore has no option {name!r}: {hint}")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _is_unfinished(answer: object) -> bool:
    """Tell whether a function has only begun: it was async, or a generator."""
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns that nobody awaited it
    return inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer)


def _noting_errors(
    client: Callable[[Any], Awaitable[object]], plan: Plan, raised: list[Objection]
) -> Callable[[Any], Awaitable[object]]:
    """Return the client's function as one whose errors are objections, but for those that `simulate` allows."""

    async def noting(handle: Any) -> object:
        try:
            return await client(handle)
        except SimulationError:
            raise
        except Exception as error:
            if plan and isinstance(error, TemporalError):
                raise
            raised.append(Objection("the client raises", f"{type(error).__name__}: {_first_line(error)}"))
            return None

    return noting


def did_of(simulation: Simulation[Any]) -> tuple[Any, ...]:
    """Return what a run did and was told, without times and repeats: nothing else tells two plans apart."""
    effects = sorted(
        (attempt.ran_order, call.label, call.nth, attempt.late)
        for call in simulation.calls
        for attempt in call.attempts
        if attempt.ran and attempt.ran_order is not None
    )
    once = dict.fromkeys((label, nth, late) for _, label, nth, late in effects)
    return simulation.status, tuple(map(repr, simulation.commands)), tuple(once), told_to(simulation)


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Log nothing: thousands of runs warn of what was made to go wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Bar:
    """A bar on a terminal's stderr, once it takes long."""

    def __init__(self, wanted: bool | None, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._wanted = self._stream.isatty() if wanted is None else wanted
        self._started = time.perf_counter()
        self._shown_at = 0.0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown_at:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def show(self, depth: int, done: int, of: int, exploration: Exploration) -> None:
        """Show how far it is: at most five times a second, and from the second second on."""
        now = time.perf_counter()
        if not self._wanted or now - self._started < 1 or now - self._shown_at < 0.2:
            return
        self._shown_at = now
        filled = 30 * done // max(of, 1)
        bar = "#" * filled + "." * (30 - filled)
        found = f", {len(exploration.violations)} ways to fail" if exploration.violations else ""
        self._stream.write(f"\r\x1b[K{depth} of {exploration.faults} faults [{bar}] {exploration.tried} plans{found}")
        self._stream.flush()
