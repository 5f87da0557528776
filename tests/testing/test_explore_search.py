"""How `explore` searches: no place comes late, what is left out hides nothing, and processes change nothing."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError

from bench.explore import Gathered, InARow, Ledger, conserved, plans_to
from temporal_saga import Saga, presets
from temporal_saga.testing import Exploration, Simulation, explore, fails_after, worker_lost
from temporal_saga.testing.explorer import _processes, _search
from temporal_saga.testing.explorer._order import Plans, ends_of_each, in_rounds

STEPS = 3


class Careless(Ledger):
    """One with a bug in one step, which only a second fault shows."""

    def __init__(self, bug: str) -> None:
        super().__init__(bug.removeprefix("forgets "))
        self.bug = bug


@workflow.defn
class TwoWays:
    """Tries one way, then another; what it does last depends on the first."""

    @workflow.run
    async def run(self, steps: int) -> str:
        way = "first"
        async with Saga(activity_options=presets.standard()) as saga:
            await saga.execute_activity_method(Ledger.do, 0, compensation=Ledger.undo, step="step-1")
            try:
                async with saga.savepoint() as attempt:
                    await attempt.execute_activity_method(Ledger.do, 1, compensation=Ledger.undo, step="step-2")
            except ActivityError:
                way = "second"
                await saga.execute_activity_method(Ledger.do, 2, compensation=Ledger.undo, step="other")
            await saga.execute_activity_method(Ledger.do, 3, compensation=Ledger.undo, step="step-3")
        return way


@workflow.defn
class Remembers:
    """Arms no undo for a step if an earlier one was given up: a memory of what is over."""

    @workflow.run
    async def run(self, steps: int) -> None:
        gave_up = False
        async with Saga(activity_options=presets.standard()) as saga:
            for number in range(steps):
                try:
                    async with saga.savepoint() as attempt:
                        await attempt.execute_activity_method(
                            Ledger.do, number, compensation=Ledger.undo, step=f"maybe-{number}"
                        )
                except ActivityError:
                    gave_up = True
            undo: Any = {} if gave_up else {"compensation": Ledger.undo}
            await saga.execute_activity_method(Ledger.do, 9, step="last", **undo)
            await saga.execute_activity_method(Ledger.do, 10, compensation=Ledger.undo, step="end")


def found_by(exploration: Exploration) -> set[tuple[Any, ...]]:
    return {(each.kind, each.plan[-1:] and each.plan[-1].kind) for each in exploration.violations}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "steps", "bug"),
    [
        (InARow, 3, "forgets step-1"),
        pytest.param(Gathered, 2, "forgets step-1", marks=pytest.mark.deep),
        pytest.param(TwoWays, 3, "", marks=pytest.mark.deep),
        (Remembers, 2, ""),
    ],
)
def test_what_is_left_out_hides_nothing(shape: Any, steps: int, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule that leaves out plans which strike the same rest, the same ways to fail are found as without."""

    def search() -> Exploration:
        return explore(
            shape.run,
            steps,
            setup=lambda: Careless(bug),
            check=conserved,
            faults=2,
            fail=False,
            processes=1,
            kinds=["fails_before", "fails_after", "worker_lost", "delivered_late", "cancel"],
        )

    with_the_rule = search()
    monkeypatch.setattr(_search, "ends_of_each", lambda found, seen: (found, 0))
    without = search()
    assert (with_the_rule.tried < without.tried) is (shape is not Gathered), "two that overlap are not independent"
    assert found_by(with_the_rule) == found_by(without)
    assert bool(without.violations) is bool(bug) or shape is Remembers


def test_of_each_rest_the_ends_are_kept() -> None:
    """The first and the last; the last only, if a shorter plan has struck that rest."""
    kept, left_out = ends_of_each([(0, number, number % 3, False) for number in range(12)], {2})
    assert [number for _, number, _, _ in kept] == [0, 1, 9, 10, 11]
    assert left_out == 7


def test_every_place_has_its_turn() -> None:
    """Each undo meets each kind of fault before any pair comes again, and before anything else."""
    faults: list[Any] = [fault(label) for label in ("a:undo", "b", "b:undo") for fault in (fails_after, worker_lost)]
    shorter = [(fails_after(f"first-{number}"),) for number in range(3)]
    found = [
        (first, number, 0, fault.label.endswith(":undo"))
        for first in range(len(shorter))
        for number, fault in enumerate(faults)
    ]
    for shuffled in (None, random.Random(1)):
        plans = Plans(shorter, faults, in_rounds(found, faults, shuffled))
        assert len(set(plans)) == len(found) == len(plans)
        for number in range(len(shorter)):
            last: list[Any] = [plan[-1] for plan in plans[6 * number : 6 * number + 6]]
            assert [fault.label == "b" for fault in last] == [False] * 4 + [True] * 2
            assert set(last) == set(faults)


@pytest.mark.slow
def test_a_bug_in_the_last_step_takes_less_than_twice_the_plans_of_one_in_the_first() -> None:
    first, last = (plans_to(step, 6) for step in (1, 6))
    assert last < 2 * first


def test_what_a_bound_on_time_leaves_out_is_spread_by_the_seed() -> None:
    """As many plans of each step are tried, and which ones depends on the seed alone."""

    def order(seed: int) -> list[Any]:
        ran: list[Any] = []

        def check(_: Any, simulation: Simulation[int]) -> None:
            ran.append(tuple(simulation.faults))

        explore(
            InARow.run,
            2,
            setup=Ledger,
            check=check,
            within=timedelta(minutes=9),
            seed=seed,
            kinds=["fails_after", "cancel"],
        )
        return ran

    one, again, other = order(1), order(1), order(2)
    assert one == again
    assert one != other
    assert sorted(map(repr, one)) == sorted(map(repr, other))


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes are started with the first plan."""
    monkeypatch.setattr(_processes, "_PATIENCE", 0)
    monkeypatch.setattr(_processes, "_WORTH_IT", 0)


def shown(exploration: Exploration) -> str:
    exploration.seconds, exploration.processes = 0.0, 1
    return str(exploration)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("bug", [pytest.param("", marks=pytest.mark.deep), "forgets step-3"])
def test_the_number_of_processes_changes_nothing(bug: str) -> None:
    """The same plans, violations and table, in the same order; forks when it may, and starts anew what it may not."""

    def search(processes: int) -> Exploration:
        return explore(
            InARow.run,
            STEPS,
            setup=lambda: Careless(bug),
            check=conserved,
            faults=2,
            fail=False,
            processes=processes,
            kinds=["fails_after", "worker_lost", "delivered_late"],
        )

    one, three = search(1), search(3)
    assert (one.processes, three.processes) == (1, 3), three.alone
    assert shown(one) == shown(three)
    assert [each.drawing for each in one.violations] == [each.drawing for each in three.violations]


@pytest.mark.deep
@pytest.mark.usefixtures("at_once")
def test_beside_threads_processes_are_started_anew() -> None:
    """A fork would take the locks of other threads along; `setup` and the workflow have to be importable then."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        options: dict[str, Any] = {"faults": 2, "kinds": ["fails_after", "worker_lost", "cancel"]}
        explored = explore(InARow.run, STEPS, setup=Ledger, check=conserved, processes=2, **options)
        assert explored.processes == 2
        assert shown(explored) == shown(
            explore(InARow.run, STEPS, setup=Ledger, check=conserved, processes=1, **options)
        )
        alone = explore(InARow.run, STEPS, setup=Ledger, check=conserved, **options)
        assert "threads run here" in alone.alone
        alone = explore(InARow.run, STEPS, setup=lambda: Ledger(), processes=2, **options)
        assert "local to a function" in alone.alone
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("at_once")
def test_what_runs_would_share_keeps_them_in_one_process(tmp_path: Path) -> None:
    """A variable outside of the functions, a database, a file: each is said by its name."""
    ends: list[str] = []

    def counts(_: Any, simulation: Simulation[int]) -> None:
        ends.append(simulation.status)

    class OnDisk(Ledger):
        def __init__(self) -> None:
            super().__init__()
            with closing(sqlite3.connect(tmp_path / "ledger.sqlite")):
                pass

    class WithAFile(Ledger):
        def __init__(self) -> None:
            super().__init__()
            (tmp_path / "log").write_text("")

    cases: list[tuple[str, Callable[[], Ledger], Any]] = [
        ("check keeps something in 'ends'", Ledger, counts),
        ("ledger.sqlite", OnDisk, None),
        ("log", WithAFile, None),
    ]
    for said, setup, check in cases:
        exploration = explore(
            InARow.run, STEPS, setup=setup, check=check, kinds=["fails_after"], processes=None, elsewhere=False
        )
        assert exploration.processes == 1
        assert (os.cpu_count() == 1) or said in exploration.alone
    assert len(ends) == 2 + STEPS, "each run was seen; that without a fault runs twice"


@pytest.mark.deep
@pytest.mark.usefixtures("at_once")
def test_an_error_in_another_process_is_reported_with_its_plan() -> None:
    """An error of one plan ends nothing, in whatever process the plan ran; its traceback comes along."""

    def check(_: Any, simulation: Simulation[int]) -> Any:
        async def unfinished() -> None: ...

        return unfinished() if len(simulation.faults) == 2 else None

    alone, together = (
        explore(InARow.run, STEPS, setup=Ledger, check=check, faults=2, processes=processes, fail=False)
        for processes in (1, 2)
    )
    assert [each.plan for each in together.violations] == [each.plan for each in alone.violations]
    assert {each.kind for each in together.violations} == {"an error in the testing kit"}
    assert all("in _users" in each.timeline for each in together.violations)
    assert "check has to be a plain function" in str(together)


@pytest.mark.usefixtures("at_once")
def test_a_process_that_dies_is_named_with_its_plan() -> None:
    parent = os.getpid()

    def check(_: Any, simulation: Simulation[int]) -> None:
        if len(simulation.faults) == 2 and os.getpid() != parent:
            os._exit(3)

    with pytest.raises(RuntimeError, match=r"the process that ran \[.*\] and what comes next has died: explore\("):
        explore(InARow.run, STEPS, setup=Ledger, check=check, faults=2, processes=2)


def test_within_a_running_loop() -> None:
    """A test that is async itself explores, too."""

    async def test() -> Exploration:
        return explore(InARow.run, 1, setup=Ledger, check=conserved)

    assert asyncio.run(test()).violations == []


@pytest.mark.parametrize(
    ("error", "match", "processes"),
    [(TypeError, "processes='2' is not a number", "2"), (ValueError, "processes=0: give 1", 0)],
)
def test_a_wrong_number_of_processes_names_the_fix(error: Any, match: str, processes: Any) -> None:
    with pytest.raises(error, match=match):
        explore(InARow.run, 1, setup=Ledger, processes=processes)
