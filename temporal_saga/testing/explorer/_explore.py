"""Tries a failure and a cancel at every point of a workflow, and says which of them loses money.

    def setup() -> Bank:
        bank = Bank()                # a fresh world for each run
        bank.open_account("A", 100)
        return bank                  # with `bank.activities`

    def test_no_fault_loses_money() -> None:
        explore(MoneyTransfer.run, Transfer("A", "B", 30), setup=setup, check=lambda bank, _: bank.total() == 100)

Shorter plans come before longer ones, so the first plan that fails is one of the shortest.
"""

from __future__ import annotations

import difflib
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporal_saga.testing.simulator import End, Fault, Simulation, check_faults, simulate

from ._alone import check_processes, choose, watching
from ._bar import Bar
from ._determinism import check_determinism
from ._elsewhere import Elsewhere
from ._exploration import Exploration, ViolationError
from ._plans import KINDS, FaultKind, check_choice, check_runs, events_of
from ._processes import Looks
from ._runner import Runner, quiet
from ._search import Search

listeners: list[Callable[[Exploration], None]] = []
"""Called with each exploration before its violations are raised. The pytest plugin uses this."""

W = TypeVar("W")
R = TypeVar("R")


def explore(
    workflow_run: Callable[..., Awaitable[R]],
    *args: Any,
    setup: Callable[[], W],
    check: Callable[[W, Simulation[R]], object] | None = None,
    ends: End = "completed",
    faults: int = 1,
    runs: int = 1,
    plan: Sequence[Fault] | None = None,
    within: timedelta | None = None,
    seed: int = 0,
    processes: int | None = None,
    kinds: Collection[FaultKind] = KINDS,
    signals: Sequence[Any] = (),
    updates: Sequence[Any] = (),
    first: bool = False,
    fail: bool = True,
    elsewhere: bool = True,
    progress: bool | None = None,
    **options: Any,
) -> Exploration:
    """Run a workflow once for each combination of up to `faults` faults, and check each run.

    Args:
        workflow_run: The workflow's run method, as in `client.execute_workflow`.
        args: Its arguments.
        setup: Makes the world of a run: an object that has a list `activities`, or that list itself. If the world has a
            `client`, an async function that takes the workflow's handle, it plays the client. If the world has a
            `close`, it is called after the run.
        check: Called with the world and the simulation after each run. It raises or returns False to object. It is not
            called after a run in which faults made compensations fail for good: their effects stand, and the explorer
            checks instead that the run reports the failed compensations. It is also not called after a run that waits
            for a person to decide about something parked.
        ends: The end of the run without any fault. Another end is a violation, and then no fault is tried.
        faults: The largest number of faults at once.
        runs: How often a world sees the workflow: one run after another, under one workflow id. A plan then runs in as
            many worlds: its faults strike the first run in one, the second in another. The other runs have no faults,
            and have to end as `ends` says. `check` is called once, after the last run, with its simulation;
            `simulation.runs` has all of them.
        plan: Run only these faults.
        within: The longest real time to take. Plans of one length then run in a random order, and the result says how
            much was left untried.
        seed: The seed of that order.
        processes: The number of processes that run plans. The result does not depend on it. By default there are as
            many as cores, once the search takes long. There is one if the runs share a file or a connection, or for
            another reason that `print` shows. If you give a number, each world must be separate.
        kinds: The kinds of faults to try; all of them by default.
        signals: Signals to try at every point: names, or tuples of a name and arguments.
        updates: Updates to try, in the same form.
        first: Stop at the first violation. By default the explorer looks for one violation of each kind.
        fail: Raise if there is a violation.
        elsewhere: Also run the workflow without faults in the SDK's sandbox, and replay some runs in two other
            processes, where strings and tasks have other hashes. These import the workflow's module by its name. If
            that does not work, the result says so.
        progress: Show a bar on stderr; by default only on a terminal.
        options: Options of `simulate`.

    Returns:
        What was tried and found.

    Raises:
        ViolationError: A plan broke a rule. It is an AssertionError.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value, or faults of `plan` found nothing to strike.
    """
    __tracebackhide__ = True
    check_choice(faults, kinds, within)
    check_runs(runs)
    check_processes(processes)
    check_faults("plan", plan or ())
    events = events_of(signals, updates)
    check_options(options)
    runner = Runner(workflow_run, args, setup, options=options, check=check, ends=ends, runs=runs)
    search = Search(runner, faults)
    started = time.perf_counter()
    with quiet(), Bar(progress) as bar:
        if plan is not None:
            search.one(tuple(plan))
        else:
            with watching() as shared:
                points = search.first()
                chosen = choose(
                    processes,
                    runner,
                    functions={"setup": setup, "check": check, "client": options.get("client")},
                    sent={"what a signal or an update is given": events},
                    shared=shared,
                )
            search.exploration.alone = chosen.alone
            if points is not None:
                with Looks(search.looker, chosen.processes, chosen.start) as looks:
                    deadline = None if within is None else started + within.total_seconds()
                    search.all(
                        frozenset(kinds),
                        events,
                        points=points,
                        deadline=deadline,
                        first=first,
                        seed=seed,
                        looks=looks,
                        bar=bar,
                    )
                search.exploration.processes = looks.processes
        if elsewhere and not search.exploration.violations:
            check_determinism(runner, search.findings, search.exploration, Elsewhere(workflow_run, options))
    exploration = search.exploration
    exploration.violations.sort(key=lambda violation: len(violation.plan))
    exploration.seconds = time.perf_counter() - started
    for listener in listeners:
        listener(exploration)
    if exploration.violations and fail:
        raise ViolationError(exploration)
    return exploration


def check_options(options: Collection[str]) -> None:
    """Raise if an option belongs neither to `explore` nor to `simulate`, which gets the rest of the options."""
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
