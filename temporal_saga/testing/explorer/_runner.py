"""One plan in a fresh world: run, and checked."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from temporalio.exceptions import TemporalError
from temporalio.worker.workflow_sandbox import SandboxRestrictions

from temporal_saga.testing.simulator import (
    ActivityFault,
    End,
    Simulation,
    SimulationError,
    UnusedFaultsError,
    add_to_world,
    ended_at,
    simulate,
    why,
)

from ._checks import Known, Objection, check_inputs, check_replay, check_run, undo_failed
from ._plans import Plan

W = TypeVar("W")
R = TypeVar("R")


class PlanError(Exception):
    """A plan whose run cannot be simulated or judged: a limit or a fault of the kit, which must not end the rest.

    Attributes:
        objection: What to report.
        shown: What happened, as text, in place of a timeline.
    """

    def __init__(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {_first_line(error)}"
        super().__init__(said)
        kind = "cannot be simulated" if isinstance(error, SimulationError) else "an error in the testing kit"
        self.objection = Objection(kind, said)
        self.shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))


class Runner(Generic[W, R]):
    """Makes a world, runs a plan in it, and checks the run. It keeps what runs show, and no run."""

    def __init__(
        self,
        workflow_run: Callable[..., Awaitable[R]],
        args: tuple[Any, ...],
        setup: Callable[[], W],
        *,
        options: dict[str, Any],
        check: Callable[[W, Simulation[R]], object] | None = None,
        ends: End = "completed",
        runs: int = 1,
    ) -> None:
        if not callable(setup):
            raise TypeError(f"setup={setup!r} is not a function: give a function that makes a fresh world for each run")
        self.name: str = getattr(workflow_run, "__qualname__", str(workflow_run))
        self.known: Known = Known()
        self._workflow_run = workflow_run
        self._args = args
        self._setup = setup
        self._check = check
        self._options = options
        self._ends = ends
        self._runs = runs

    def run(self, plan: Plan) -> tuple[Simulation[R], list[Objection]]:
        """Run one plan in a fresh world and check it.

        Raises:
            PlanError: A run with faults cannot be simulated or judged. What the run without any raises is raised as is.
        """
        with quiet():
            if not plan:
                return self._run(plan)
            try:
                return self._run(plan)
            except UnusedFaultsError:
                raise
            except Exception as error:
                raise PlanError(error) from error

    def _run(self, plan: Plan) -> tuple[Simulation[R], list[Objection]]:
        """Run a plan in as many worlds as there are runs in a world: its faults strike another run in each."""
        simulation, objections = self._in_a_world(plan, 1)
        for struck in range(2, self._runs + 1 if plan else 2):
            try:
                other, more = self._in_a_world(plan, struck)
            except UnusedFaultsError:
                continue  # what came before has changed this run
            if more and not objections:
                simulation = other
            objections += [each for each in more if each not in objections]
        return simulation, objections

    def _in_a_world(self, plan: Plan, struck: int) -> tuple[Simulation[R], list[Objection]]:
        """Run the workflow as often as one world sees it; return the run that the faults strike."""
        world: Any = self._setup()
        if world is None or _is_unfinished(world):
            raise TypeError("setup has to be a plain function that returns the world: not async, and without yield")
        found: list[Simulation[R]] = []
        objections: list[Objection] = []
        try:
            for number in range(1, self._runs + 1):
                faults, raised = plan if number == struck else (), list[Objection]()
                more = {"run": number, "start_time": ended_at(found[-1])} if found else {}
                simulation = self._simulate(world, faults, raised, **more)
                if self._runs > 1:
                    add_to_world(found, simulation)
                    where = f" (in run {number} of {self._runs})"
                else:
                    found, where = [simulation], ""
                seen = [
                    *raised,
                    *([] if faults else self.check_end(simulation)),
                    *check_run(simulation, faults, self.known),
                    *check_inputs(simulation, self.known),
                ]
                objections += [replace(each, message=f"{each.message}{where}") for each in seen] if where else seen
                if simulation.status == "waiting":
                    break  # its id is in use
            if self._check is not None and not any(undo_failed(each) or each.parked for each in found):
                objections += self._users(world, found[-1], plan)
        finally:
            _close(world)
        return found[min(struck, len(found)) - 1], objections

    def _simulate(self, world: Any, plan: Plan, raised: list[Objection], **more: Any) -> Simulation[R]:
        activities: Any = getattr(world, "activities", world)
        if not hasattr(activities, "__iter__"):
            raise TypeError(
                f"the world that setup returned, {type(world).__name__}, has no list of activities: "
                "give it one as its attribute `activities`, or return such a list"
            )
        options: dict[str, Any] = {**self._options, **more}
        client = options.get("client") or getattr(world, "client", None)
        if client is not None:
            options["client"] = _noting_errors(client, plan, raised)
        workflow_run: Any = self._workflow_run
        return simulate(workflow_run, *self._args, activities=activities, faults=plan, **options)

    def check_end(self, happy: Simulation[R]) -> list[Objection]:
        """Object if the run without any fault ended in another way than expected: then other runs show nothing."""
        if happy.parked:
            return [Objection("ends otherwise", f"it is not {self._ends}: it waits for {happy.waiting_for}")]
        if happy.status in (self._ends, "waiting"):  # a run that never ends is objected to as such
            return []
        because = f": {why(happy)}" if happy.status == "failed" else ""
        hint = f'if it is to end so, say ends="{happy.status}"'
        return [Objection("ends otherwise", f"it ended {happy.status}, and not {self._ends}{because} ({hint})")]

    def check_in_sandbox(self, happy: Simulation[R]) -> tuple[list[Objection], str]:
        """Run once more without any fault, in the SDK's sandbox; return what is wrong, and why if it did not run.

        A workflow that has passed is not run again by further explorations in this process.
        """
        cls = getattr(inspect.getmodule(self._workflow_run), self.name.partition(".")[0], None)
        if self._options.get("sandboxed") or cls in _passed:
            return [], ""
        if cls is None or cls.__module__ == "__main__":
            return [], f"{self.name} cannot be imported by its name: move it to a module of its own"
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # else pytest may have turned the sandbox's into errors
            world: Any = self._setup()
            try:
                found = self._simulate(world, (), [], sandboxed=_restrictions())
            except Exception as error:
                cause = error.__cause__ or error
                return [], f"{type(cause).__name__}: {_first_line(cause)}"
            finally:
                _close(world)
        said = next(
            (each for each in (*found.task_failures, why(found)) if "RestrictedWorkflowAccessError" in each), ""
        )
        if said:
            return [Objection("restricted in the sandbox", _first_line_of(said))], ""
        if found.status != happy.status:
            ended = found.waiting_for or found.status
            return [], f"it ended otherwise there: {_first_line_of(ended)}"
        _passed.add(cls)
        return [], ""

    def check_replay(self, plan: Plan, simulation: Simulation[R]) -> list[Objection]:
        """Return what a replay of a plan's run does differently."""
        with quiet():
            return check_replay(simulation, self.known, lambda: self.run(plan)[0])

    def _users(self, world: W, simulation: Simulation[R], plan: Plan) -> list[Objection]:
        assert self._check is not None
        try:
            answer: object = self._check(world, simulation)
        except AssertionError as error:
            said = _first_line_of(_PYTESTS_DIFF.sub("", str(error)))
            said = f"{said} ({_where(error)})" if said else _where(error)
            return [Objection("the check objects", f"{said}{_undone(simulation, plan)}")]
        except Exception as error:
            return [Objection("the check raises", f"{type(error).__name__}: {_first_line(error)} ({_where(error)})")]
        if _is_unfinished(answer):
            raise TypeError("check has to be a plain function: not async, and without yield; it has not run")
        said = f"the check returned False{_undone(simulation, plan)}"
        return [Objection("the check objects", said)] if answer is False else []


def not_fresh(again: Sequence[Objection]) -> list[Objection]:
    """Object to what a second run without any fault shows, where the first one showed nothing: runs share a world."""
    said = next((each for each in again if each.kind in _OF_THE_WORLD), None)
    if said is None:
        return []
    advice = "setup has to make a fresh world for each run; runs have the same keys, so empty a fence's table too"
    return [Objection("the world is not fresh", f"in a second run {said.kind}: {said.message}. {advice}")]


_OF_THE_WORLD = {"ends otherwise", "the check objects", "the check raises", "the client raises"}


def _undone(simulation: Simulation[Any], plan: Plan) -> str:
    """Say what was undone, where the plan names no step: what is wrong may be one of these."""
    if any(isinstance(fault, ActivityFault) for fault in plan):
        return ""
    undone = [call.label.removesuffix(":undo") for call in simulation.calls if call.phase in ("undo", "push")]
    return f"; undone were {', '.join(undone)}" if undone else ""


def _restrictions() -> SandboxRestrictions:
    """Return the SDK's restrictions for the user's own modules; those of libraries are as they are, and not slow."""
    libraries = {
        name.partition(".")[0]
        for name, module in list(sys.modules.items())
        if "site-packages" in (getattr(module, "__file__", None) or "")
    }
    return SandboxRestrictions.default.with_passthrough_modules(*libraries)


_passed: set[Any] = set()  # workflows that the sandbox has let pass


def _close(world: Any) -> None:
    close = getattr(world, "close", None)
    if close is not None:
        close()


_PYTESTS_DIFF = re.compile(r"\n.*?(?:Use -v to get more diff|Full diff: .*\n[-+?^ ]*[\])}]?)", re.DOTALL)
"""It stands in the middle of the assertion: the rest of an `and` comes behind it. With `-v` and in CI, it is longer."""


def _first_line(error: BaseException) -> str:
    return _first_line_of(str(error))


def _first_line_of(text: str) -> str:
    return text.partition("\n")[0]


def _where(error: BaseException) -> str:
    """Return the line that raised: of the check itself or what it calls, not of a library in between."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is this module's
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    if not own:
        return "an assertion"
    frame = own[-1]
    path, here = Path(frame.filename), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{frame.lineno}: {frame.line}"


def _is_unfinished(answer: object) -> bool:
    """Tell whether a function has only begun: it was async, or a generator."""
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns that nobody awaited it
    return inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer)


def _noting_errors(
    client: Callable[[Any], Awaitable[object]], plan: Plan, raised: list[Objection]
) -> Callable[[Any], Awaitable[object]]:
    """Return the client's function, its errors turned into objections, except those that `simulate` allows."""

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


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Log nothing: thousands of runs would warn of faults that were put there on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
