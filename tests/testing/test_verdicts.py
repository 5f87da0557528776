"""Verdicts that were wrong once: each with its siblings, on workflows of the shape in which it was found."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from temporal_saga import Compensation, Declined, Saga, SagaState, current_step, presets
from temporal_saga.presets import Preset
from temporal_saga.testing import (
    Exploration,
    Fault,
    bug_after,
    cancel_scope,
    explore,
    fails_after,
    fails_before,
    fails_once,
    outage,
    provider_call,
    provider_fault,
    restart,
    simulate,
    slow,
    slow_worker,
    update,
    worker_lost,
)

S = presets.standard()
SECOND = timedelta(seconds=1)


class World:
    """What stands, by key: an undo takes it away, and nothing comes after that."""

    def __init__(self) -> None:
        self.standing: dict[str, Any] = {}
        self.undone: set[str] = set()
        self.in_activity: list[bool] = []

    @property
    def activities(self) -> list[Callable[..., Any]]:
        return [self.do, self.undo, self.refuse]

    @activity.defn
    async def do(self, what: str) -> str:
        key = current_step().key
        if key in self.undone:
            raise Declined("too late")
        with provider_call():
            self.standing[key] = what
        return what

    @activity.defn
    async def undo(self, what: str) -> None:
        key = current_step().forward_key or ""
        self.undone.add(key)
        self.standing.pop(key, None)

    @activity.defn
    async def refuse(self, what: str) -> None:
        raise Declined("no")


def nothing_is_left(world: World, simulation: Any) -> bool:
    return simulation.status == "completed" or not world.standing


def kinds(exploration: Exploration) -> list[str]:
    return sorted({violation.kind for violation in exploration.violations})


def tried(run: Any, *args: Any, setup: Any = World, **options: Any) -> Exploration:
    return explore(run, *args, setup=setup, fail=False, **options)


# --- C1 --------------------------------------------------------------------------------------------------------------


@workflow.defn
class Cart:
    """An entity: its items come by updates, and each handler has a saga of its own."""

    def __init__(self) -> None:
        self.closed = False

    @workflow.run
    async def run(self) -> str:
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: self.closed, timeout=60 * SECOND)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return "closed"

    @workflow.update
    async def add(self, item: str = "apple") -> str:
        async with Saga(f"cart-{item}", activity_options=S) as saga:
            await saga.execute_activity_method(World.do, item, step="reserve", compensation=World.undo)
            await saga.execute_activity_method(World.do, item, step="price", compensation=World.undo)
        return item

    @workflow.signal
    def close(self) -> None:
        self.closed = True


def test_c1_two_updates_in_one_activation() -> None:
    """Events of a plan never share an id, however many come in one activation."""
    pair: list[Fault] = [update("add", "apple", at=2), update("add", "pear", at=2)]
    simulation = simulate(Cart.run, activities=World().activities, faults=pair)
    assert simulation.status == "completed"
    assert len([command for command in simulation.commands if command[0] == "update_completed"]) == 2
    exploration = tried(Cart.run, updates=["add"], faults=2, kinds=["cancel"], within=5 * SECOND)
    assert exploration.tried > 10
    assert kinds(exploration) == []


@pytest.mark.parametrize("broken", ["the client", "the check", "the kit"])
def test_c1_an_error_of_one_plan_ends_no_exploration(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks in one plan, the others run, and the plan is reported. Without faults it is raised."""

    class Waits(World):
        async def client(self, handle: Any) -> None:
            await asyncio.sleep(1 if "a:undo" not in labels else 3600)
            if handle._execution.status != "completed":
                await asyncio.Event().wait()

    labels: list[str] = []

    def check(world: Any, simulation: Any) -> None:
        if simulation.status != "completed" and broken == "the check":
            raise ValueError("a hole in the check")

    if broken == "the kit":
        from temporal_saga.testing.explorer import _checks, _runner

        real = _checks.check_run

        def broken_check(simulation: Any, plan: Any, known: Any) -> Any:
            if simulation.status == "failed":
                raise LookupError("a hole in the kit")
            return real(simulation, plan, known)

        monkeypatch.setattr(_runner, "check_run", broken_check)
    setup = Waits if broken == "the client" else World
    exploration = tried(Steps.run, ["a"], setup=setup, check=check, kinds=["fails_before", "fails_after", "restart"])
    assert exploration.tried >= 4, "the rest has run"
    found = {
        "the client": "cannot be simulated",
        "the check": "the check raises",
        "the kit": "an error in the testing kit",
    }
    violation = exploration.violations[0]
    assert (violation.kind, len(violation.plan)) == (found[broken], 1)
    if broken == "the kit":
        assert violation.message == "LookupError: a hole in the kit"
        assert "in broken_check" in violation.timeline


@workflow.defn
class Steps:
    """One step after the other."""

    @workflow.run
    async def run(self, names: list[str], undos: int = 0) -> list[str]:
        options: Any = {} if not undos else {"compensation_options": few_attempts(undos)}
        async with Saga(activity_options=S, **options) as saga:
            for name in names:
                await saga.execute_activity_method(World.do, name, step=name, compensation=World.undo)
        return names


def few_attempts(number: int) -> Any:
    preset = Preset(
        initial_interval=SECOND, maximum_interval=60 * SECOND, maximum_attempts=number, schedule_to_close_timeout=None
    )
    return preset()


# --- C2 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fails_once("a:undo"), worker_lost("a:undo"), outage("undo", minutes=0.1)], ids=repr)
def test_c2_a_fault_that_passes_excuses_no_undo_that_gives_up(fault: Fault) -> None:
    """An undo with one attempt gives up at the first fault that passes by; one that is tried again does not."""
    plan = [fails_after("a"), fault]
    assert kinds(tried(Steps.run, ["a"], 1, plan=plan)) == ["an undo gives up"]
    assert kinds(tried(Steps.run, ["a"], plan=plan, check=nothing_is_left)) == []
    for_good = tried(Steps.run, ["a"], 1, plan=[fails_after("a"), fails_before("a:undo")])
    assert kinds(for_good) == []


def test_c2_an_outage_outlasts_few_attempts() -> None:
    """`explore` lets what an undo talks to be down for an hour: three attempts are too few, the default is not."""
    assert kinds(tried(Steps.run, ["a"], 3, faults=2, kinds=["fails_after", "outage"])) == ["an undo gives up"]
    found = tried(Steps.run, ["a"], 3, faults=2, kinds=["fails_after", "outage"]).violations[0]
    assert found.plan == (fails_after("a"), outage("a:undo", minutes=60))
    assert "gave up after 3 attempts" in found.message
    assert eval(repr(found.plan[1])) == found.plan[1]
    assert kinds(tried(Steps.run, ["a"], faults=2, kinds=["fails_after", "outage"])) == []


def test_c2_what_an_outage_does() -> None:
    """Every attempt fails until the minutes have passed since the first one; a label, or a type, names the calls."""
    for label in ("a", "do"):
        simulation = simulate(Steps.run, ["a", "b"], activities=World().activities, faults=[outage(label, minutes=1)])
        (first, second) = [call for call in simulation.calls if call.phase == "do"]
        assert simulation.status == "completed"
        ended = [attempt for attempt in first.attempts if not attempt.ran]
        assert len(ended) == 6, "at 0, 1, 3, 7, 15 and 31 s"
        assert "an outage" in ended[0].outcome
        assert len(second.attempts) == 1
    with pytest.raises(ValueError, match="minutes=0"):
        outage("a", minutes=0)


# --- C3 --------------------------------------------------------------------------------------------------------------


class Cloud(World):
    """A network cannot be dropped while a machine is in it."""

    @activity.defn
    async def undo(self, what: str) -> None:
        if what == "network" and "machine" in self.standing.values():
            raise ApplicationError("a machine is in it", non_retryable=True)
        key = current_step().forward_key or ""
        self.undone.add(key)
        self.standing.pop(key, None)


def test_c3_an_undo_may_refuse_once_another_was_failed_for_good() -> None:
    """Which undo depends on which is not known: a fault that fails one for good excuses those behind it, no others."""
    names = ["network", "machine"]
    plan = [fails_after("machine"), fails_before("machine:undo")]
    assert kinds(tried(Steps.run, names, setup=Cloud, plan=plan, check=nothing_is_left)) == []
    assert kinds(tried(Steps.run, names, setup=Cloud, faults=2, kinds=["fails_after", "fails_before"])) == []
    # A fault that passes by is no excuse, and neither is one of an undo that comes later.
    reversed_ = list(reversed(names))
    found = tried(Steps.run, reversed_, setup=Cloud, plan=[fails_after("network"), fails_before("machine:undo")])
    assert kinds(found) == ["an undo fails by itself"]


# --- C4 --------------------------------------------------------------------------------------------------------------


@workflow.defn
class Judges:
    """Raises a business error of the library's in workflow code."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=S) as saga:
            await saga.execute_activity_method(World.do, "a", step="a", compensation=World.undo)
            assert not activity.in_activity()
            await workflow.sleep(1)
            assert not activity.in_activity()
            raise Declined("not today")


@pytest.mark.parametrize("fault", [bug_after("a"), restart(at=2), restart(at=3)], ids=repr)
def test_c4_workflow_code_never_runs_in_an_activitys_context(fault: Fault) -> None:
    """A replay begins in a context of its own, wherever it was set off."""
    exploration = tried(Judges.run, plan=[fault], ends="failed", check=nothing_is_left)
    assert kinds(exploration) == []
    simulation = simulate(Judges.run, activities=World().activities, faults=[fault])
    assert simulation.replay_difference is None
    assert all("AssertionError" not in failure for failure in simulation.task_failures)


# --- C5 --------------------------------------------------------------------------------------------------------------


def test_c5_a_failed_update_is_the_report() -> None:
    """A handler's saga that ends incomplete tells its caller, and the run goes on. Swallowed, nobody is told."""
    plan = [update("add", at=2), fails_after("price"), fails_before("price:undo")]
    assert kinds(tried(Cart.run, plan=plan)) == []
    assert kinds(tried(SwallowingCart.run, plan=plan)) == ["not reported"]


@workflow.defn
class SwallowingCart:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(60)
        return "closed"

    @workflow.update
    async def add(self, item: str = "apple") -> str:
        try:
            async with Saga(activity_options=S) as saga:
                await saga.execute_activity_method(World.do, item, step="price", compensation=World.undo)
        except ApplicationError:
            return "no such thing"
        return item


# --- C6 --------------------------------------------------------------------------------------------------------------


@workflow.defn
class Ship:
    @workflow.run
    async def run(self, parcel: str) -> str:
        async with Saga(activity_options=S) as saga:
            await saga.execute_activity_method(World.do, parcel, step="label", compensation=World.undo)
            await saga.execute_activity_method(World.do, parcel, step="charge", compensation=World.undo)
            return parcel


@workflow.defn
class ShipAll:
    """Two children at a time."""

    @workflow.run
    async def run(self) -> list[str]:
        children = [workflow.execute_child_workflow(Ship.run, each, id=f"ship-{each}") for each in ("x", "y")]
        return sorted(map(str, await asyncio.gather(*children, return_exceptions=True)))


def test_c6_a_fault_names_the_child_that_it_strikes() -> None:
    """Faults that change which child comes first strike the same call all the same."""
    exploration = tried(ShipAll.run, workflows=[Ship], faults=2, kinds=["fails_before", "bug_after"])
    assert kinds(exploration) == []
    simulation = simulate(
        ShipAll.run, workflows=[Ship], activities=World().activities, faults=[fails_before("charge@ship-y")]
    )
    struck = [call for call in simulation.calls if call.label == "charge" and call.state == "failed"]
    assert [call.workflow_id for call in struck] == ["ship-y"]
    both = [fails_before("charge@ship-x"), bug_after("label@ship-x")]
    assert kinds(tried(ShipAll.run, workflows=[Ship], plan=both)) == []


@workflow.defn
class Impatient:
    """Gives a step up after a while, and goes on without it."""

    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=S) as saga:
            try:
                await asyncio.wait_for(
                    saga.execute_activity_method(Slow.do, "a", step="a", key="a", compensation=World.undo), 2
                )
            except asyncio.TimeoutError:
                return "without"
        return "with"


class Slow(World):
    @activity.defn
    async def do(self, what: str) -> str:
        await asyncio.sleep(5)
        self.standing[current_step().key] = what
        return what


def test_c6_no_bug_in_an_await_that_raises_a_cancel() -> None:
    """Of a step that a timeout has cancelled, the await raises the cancel: a bug finds nothing to strike there."""
    with pytest.raises(ValueError, match=r"bug_after\('a'\).* found nothing to strike"):
        simulate(Impatient.run, activities=Slow().activities, faults=[bug_after("a")])
    exploration = tried(Impatient.run, setup=Slow)
    assert kinds(exploration) == []


# --- C7 --------------------------------------------------------------------------------------------------------------


_made_up = itertools.count()


@workflow.defn
class StampsItsArguments:
    """Gives each call a stamp that its framework makes up, as some agents do."""

    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=S) as saga:
            stamp = f"stamp {next(_made_up)}"
            await saga.execute_activity_method(
                World.do, stamp, step="a", compensation=Compensation(World.undo, f"stamp {next(_made_up)}")
            )
            await saga.execute_activity_method(World.do, "b", step="b", compensation=World.undo)
        return stamp


@workflow.defn
class StampsASleep:
    """Waits for as long as a stamp says: a replay must not."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=S) as saga:
            await saga.execute_activity_method(World.do, f"stamp {next(_made_up)}", step="a", compensation=World.undo)
            await workflow.sleep(1 + next(_made_up))


def test_c7_arguments_that_differ_by_design() -> None:
    """Only arguments that two runs without a fault agree on are compared in a replay; commands always are."""
    assert kinds(tried(StampsItsArguments.run, kinds=["fails_after", "cancel", "restart", "bug_after"])) == []
    assert "replay differs" in kinds(tried(StampsASleep.run, kinds=["fails_after"]))


# --- C9 --------------------------------------------------------------------------------------------------------------


@workflow.defn
class Detaching:
    @workflow.run
    async def run(self) -> SagaState:
        async with Saga("child", activity_options=S) as saga:
            await saga.execute_activity_method(World.do, "a", step="a", compensation=World.undo)
            return saga.detach()


@workflow.defn
class Joining:
    @workflow.run
    async def run(self, join: bool) -> None:
        async with Saga(activity_options=S) as saga:
            options: Any = {"compensation_from": lambda outcome: outcome.result} if join else {}
            await saga.execute_child_workflow(Detaching.run, step="part", **options)
            await saga.execute_activity_method(World.do, "b", step="b", compensation=World.undo)


def test_c9_a_child_whose_state_undid_it_is_not_listed() -> None:
    """A child's detached saga is undone under its own keys. One that is not joined is listed."""
    joined = tried(Joining.run, True, workflows=[Detaching], kinds=["fails_after", "cancel"])
    assert (kinds(joined), joined.without_compensation) == ([], [])
    lost = tried(Joining.run, False, workflows=[Detaching], kinds=["fails_after"])
    assert "part" in lost.without_compensation


# --- C10 -------------------------------------------------------------------------------------------------------------


def test_c10_an_objection_says_where_it_stands() -> None:
    """The assertion's file, line and source are in the message, with and without words of its own."""

    def deeper(world: World) -> None:
        assert not world.standing

    def check(world: World, simulation: Any) -> None:
        if simulation.status == "failed":
            deeper(world)

    class Keeps(World):
        @activity.defn
        async def undo(self, what: str) -> None:
            pass

    (violation,) = tried(Steps.run, ["a"], setup=Keeps, check=check, plan=[fails_after("a")]).violations
    line = deeper.__code__.co_firstlineno + 1
    assert f"tests/testing/test_verdicts.py:{line}: assert not world.standing" in violation.message


def test_c10_the_timeline_says_whether_the_function_ran() -> None:
    """A failure before the effect reads otherwise than one after it; so does a timeout."""
    lines = {
        fault.kind: next(
            line
            for line in str(simulate(Steps.run, ["a"], activities=World().activities, faults=[fault])).splitlines()
            if " x " in line
        )
        for fault in (fails_before("a"), fails_after("a"), worker_lost("a"), slow("a"))
        if fault.kind != "slow"
    }
    assert "its function did not run" in lines["fails_before"]
    assert "its function ran" in lines["fails_after"]
    assert "its function ran" in lines["worker_lost"]


# --- C15 and E9 ------------------------------------------------------------------------------------------------------


@workflow.defn
class CancelsBeforeItLeaves:
    """Cancels a step in the activation in which core answers the cancel of another: nothing has left the worker."""

    @workflow.run
    async def run(self) -> list[str]:
        async with Saga(activity_options=S) as saga:

            async def step(name: str) -> str:
                return await saga.execute_activity_method(World.do, name, step=name, compensation=World.undo)

            for name in ("a", "b"):
                task = asyncio.create_task(step(name))
                await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except BaseException as error:
                    if not is_cancelled_exception(error):
                        raise
        return [f"{each.name} {each.state} {each.undo_state}" for each in saga.report().steps]


def test_c15_e9_a_step_cancelled_in_a_second_activation_never_left_the_worker() -> None:
    """All activations of one workflow task see one history: what is cancelled within it was never sent."""
    simulation = simulate(CancelsBeforeItLeaves.run, activities=World().activities)
    assert simulation.result() == ["a NOT_APPLIED None", "b NOT_APPLIED None"]
    assert simulation.calls == []
    assert kinds(tried(CancelsBeforeItLeaves.run)) == []


@pytest.mark.parametrize("more", [worker_lost("a"), fails_after("a"), provider_fault("a", at="after")], ids=repr)
def test_c15_slow_and_another_fault_on_one_call_end(more: Fault) -> None:
    """A slow attempt whose worker is lost ends by its timeout."""
    simulation = simulate(Steps.run, ["a"], activities=World().activities, faults=[slow("a"), more])
    assert simulation.status == ("failed" if more.kind == "fails_after" else "completed")


# --- faults inside of a function -------------------------------------------------------------------------------------


class Till(World):
    """Adds each payment up, whether it has seen its key before or not."""

    def __init__(self) -> None:
        super().__init__()
        self.paid = 0

    @activity.defn
    async def do(self, what: str) -> str:
        with provider_call():
            self.paid += 1
        self.standing[current_step().key] = what
        return what


def test_c8_a_fault_strikes_inside_of_a_function() -> None:
    """A provider that fails after its effect finds what no fault around the function does: the repeat pays twice."""

    def paid_once(world: Till, simulation: Any) -> bool:
        return world.paid <= 1

    faults_around = ["fails_before", "fails_after", "fails_once", "slow", "bug_after"]
    assert kinds(tried(Steps.run, ["a"], setup=Till, check=paid_once, kinds=faults_around)) == []
    found = tried(Steps.run, ["a"], setup=Till, check=paid_once, kinds=["provider_before", "provider_after"])
    assert [violation.plan for violation in found.violations] == [(provider_fault("a", at="after"),)]
    assert eval(repr(found.violations[0].plan[0])) == provider_fault("a", at="after")


def test_c8_the_errors_of_a_provider() -> None:
    """The errors are those that the fake gives, once; outside of a simulation nothing happens."""
    seen: list[str] = []

    class Own(World):
        @activity.defn
        async def do(self, what: str) -> str:
            try:
                with provider_call(before=lambda: OSError("refused"), after=lambda: TimeoutError("no answer")):
                    seen.append("did")
            except Exception as error:
                seen.append(str(error))
                raise
            return what

    for at, expected in (("before", ["refused", "did"]), ("after", ["did", "no answer", "did"])):
        seen.clear()
        fault = provider_fault("a", at=at)  # type: ignore[arg-type]
        assert simulate(Steps.run, ["a"], activities=Own().activities, faults=[fault]).status == "completed"
        assert seen == expected
    with provider_call():
        seen.append("outside")
    with pytest.raises(ValueError, match="at='during'"):
        provider_fault("a", at="during")  # type: ignore[arg-type]


# --- what an undo gets -----------------------------------------------------------------------------------------------


@dataclass
class Basket:
    items: list[str]


class Baskets:
    def __init__(self) -> None:
        self.runs = 0

    @property
    def activities(self) -> list[Callable[..., Any]]:
        return [self.pack, self.unpack, self.unpack_number]

    @activity.defn
    async def pack(self, basket: Basket) -> str:
        return ""

    @activity.defn
    async def unpack(self, basket: Basket) -> None:
        pass

    @activity.defn
    async def unpack_number(self, number: int) -> None:
        self.runs += 1


@workflow.defn
class Packs:
    @workflow.run
    async def run(self, how: str) -> None:
        basket = Basket(["apple"])
        async with Saga(activity_options=S) as saga:
            if how == "by another type":
                await saga.execute_activity("pack", basket, step="a", compensation="unpack_number")
            elif how == "on purpose":
                await saga.execute_activity_method(
                    Baskets.pack, basket, step="a", compensation=Compensation(Baskets.unpack, Basket([]))
                )
            else:
                await saga.execute_activity_method(Baskets.pack, basket, step="a", compensation=Baskets.unpack)
            if how == "changed":
                basket.items.append("pear")
            await saga.execute_activity_method(Baskets.pack, basket, step="b", compensation=Baskets.unpack)


def test_c8_an_undos_input_that_changed_since_its_step() -> None:
    """An undo that gets its step's input gets the object as it is then: another value is an objection."""
    changed = tried(Packs.run, "changed", setup=Baskets, kinds=["fails_after", "cancel"])
    assert kinds(changed) == ["an undo's input changed"]
    assert "a:undo was called with {'items': ['apple', 'pear']}, and its step with" in changed.violations[0].message
    for how in ("not", "on purpose"):
        assert kinds(tried(Packs.run, how, setup=Baskets, kinds=["fails_after", "cancel"])) == []


def test_c8_an_argument_that_does_not_decode_in_its_undos_types() -> None:
    """An undo whose types do not fit the step's input is told as such, after few attempts, and never runs."""
    worlds: list[Baskets] = []

    def setup() -> Baskets:
        worlds.append(Baskets())
        return worlds[-1]

    exploration = tried(Packs.run, "by another type", setup=setup, kinds=["fails_after"])
    assert "arguments do not decode" in kinds(exploration)
    (violation,) = [each for each in exploration.violations if each.kind == "arguments do not decode"]
    assert violation.message == "a:undo got arguments that 'unpack_number' cannot decode by its own types"
    assert {world.runs for world in worlds} == {0}
    simulation = simulate(Packs.run, "by another type", activities=Baskets().activities, faults=[fails_after("b")])
    assert len(simulation.calls[-1].attempts) == 10


def test_c10_a_failure_that_repeats_without_faults_is_soon_known() -> None:
    """A bug in an activity repeats for ever, which ten attempts show. Anything else is tried on, as a poll is."""

    class Broken(World):
        @activity.defn
        async def do(self, what: str) -> str:
            raise {"type": TypeError, "poll": ApplicationError}[what]("not yet")

    for what, expected in (("type", 10), ("poll", 1000)):
        simulation = simulate(Forward.run, what, activities=Broken().activities)
        assert len(simulation.calls[0].attempts) == expected
        assert "fails forever: not yet" in simulation.waiting_for


@workflow.defn
class Forward:
    @workflow.run
    async def run(self, what: str) -> None:
        await workflow.execute_activity_method(World.do, what, start_to_close_timeout=SECOND)


# --- a slow worker ---------------------------------------------------------------------------------------------------


@workflow.defn
class Races:
    """Takes the first of two answers, and undoes nothing of the other: right only if one comes at a time."""

    @workflow.run
    async def run(self, right: bool) -> list[str]:
        tasks = [
            workflow.start_activity_method(Slow.do, name, activity_id=name, start_to_close_timeout=600 * SECOND)
            for name in ("a", "b")
        ]
        while not (done := [task for task in tasks if task.done()]):
            await workflow.wait_condition(lambda: any(task.done() for task in tasks))
        assert right or len(done) == 1
        return sorted([task.result() for task in done])


def test_c15_a_slow_worker_gets_several_things_at_once() -> None:
    """What comes while a worker is slow comes in one activation; where nothing else can come, the fault is idle."""

    class Ids(World):
        @activity.defn
        async def do(self, what: str) -> str:
            await asyncio.sleep(1 if what == "a" else 100)
            return what

    assert simulate(Races.run, False, activities=Ids().activities).result() == ["a"]
    both = simulate(Races.run, True, activities=Ids().activities, faults=[slow_worker(at=2)])
    assert (both.activations, both.result(), both.duration) == (2, ["a", "b"], 100 * SECOND)
    assert both.check_replay() is None
    found = tried(Races.run, False, setup=Ids, kinds=["slow_worker"])
    assert [violation.plan for violation in found.violations] == [(slow_worker(at=2),)]
    assert "the worker is slow" in found.violations[0].timeline
    assert kinds(tried(Steps.run, ["a", "b"], kinds=["slow_worker"])) == []
    with pytest.raises(ValueError, match="found nothing to strike"):
        simulate(Steps.run, ["a"], activities=World().activities, faults=[slow_worker(at=2)])


@workflow.defn
class Undecided:
    """Waits for a signal for a minute, in a saga of parallel steps."""

    def __init__(self) -> None:
        self.stopped = False

    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=S) as saga:
            await asyncio.gather(
                *(saga.execute_activity_method(World.do, n, step=n, compensation=World.undo) for n in ("a", "b"))
            )
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: self.stopped, timeout=60 * SECOND)
            await saga.execute_activity_method(World.do, "c", step="c", compensation=World.undo)
        return "stopped" if self.stopped else "in time"

    @workflow.signal
    def stop(self) -> None:
        self.stopped = True


def test_c15_a_slow_worker_harms_no_saga() -> None:
    """A saga keeps its promise when results, timers, signals and cancels come together; and it replays."""
    exploration = tried(
        Undecided.run,
        check=nothing_is_left,
        faults=2,
        signals=["stop"],
        kinds=["slow_worker", "cancel"],
        elsewhere=False,
    )
    assert kinds(exploration) == []


# --- whose undo it is, and when --------------------------------------------------------------------------------------


@workflow.defn
class TakesOut:
    """Takes the first of two items out again, while the second one stands."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=S) as saga:
            for item in ("a", "b"):
                await saga.execute_activity_method(World.do, item, step="reserve", key=item, compensation=World.undo)
            await saga.undo("reserve", key="a")
            await saga.execute_activity_method(World.do, "c", step="pay", compensation=World.undo)


@pytest.mark.parametrize("sandboxed", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_an_undo_on_demand_is_in_no_order(sandboxed: bool) -> None:
    """Not when it succeeds, nor when an unwind begins while it runs."""
    few: Any = ["cancel_with", "fails_after"]
    exploration = tried(TakesOut.run, check=nothing_is_left, kinds=few, sandboxed=sandboxed, elsewhere=False)
    assert (kinds(exploration), exploration.tried > 8) == ([], True)


@workflow.defn
class Gives:
    """A child that gives its saga to its parent."""

    @workflow.run
    async def run(self) -> SagaState:
        async with Saga("given", activity_options=S) as saga:
            await saga.execute_activity_method(World.do, "a", step="a", compensation=World.undo)
            return saga.detach()


@workflow.defn
class Takes:
    """A parent that takes the saga of its child over, undoes the child in another way, or forgets it."""

    @workflow.run
    async def run(self, how: str) -> None:
        ways: dict[str, Any] = {
            "state": {"compensation_from": lambda step: step.result},
            "by hand": {"compensation": Compensation("undo_child")},
            "not at all": {},
        }
        async with Saga(activity_options=S) as saga:
            await saga.execute_child_workflow(Gives.run, **ways[how])
            await saga.execute_activity_method(World.do, "b", step="b", compensation=World.undo)


class UndoesChildren(World):
    @property
    def activities(self) -> list[Callable[..., Any]]:
        return [*super().activities, self.undo_child]

    @activity.defn
    async def undo_child(self) -> None:
        self.standing.clear()


@pytest.mark.parametrize(("how", "found"), [("state", []), ("by hand", []), ("not at all", ["not undone"])])
def test_what_a_child_gives_away_is_undone_by_somebody(how: str, found: list[str]) -> None:
    """Also if the undo of one of its steps fails for good: then too the child has a compensation."""
    exploration = tried(
        Takes.run, how, setup=UndoesChildren, workflows=[Gives], faults=2, kinds=["fails_before"], elsewhere=False
    )
    assert (kinds(exploration), exploration.without_compensation == ["Gives"]) == (found, how == "not at all")


@workflow.defn
class GoesOn:
    """Swallows a failure, goes on in a next run, and unwinds there."""

    @workflow.run
    async def run(self, state: SagaState | None) -> None:
        async with Saga(activity_options=S, state=state) as saga:
            if state is None:
                with suppress(ActivityError):
                    await saga.execute_activity_method(World.do, "a", step="a", compensation=World.undo)
                workflow.continue_as_new(saga.detach())
            await saga.compensate()


def test_an_error_of_an_earlier_run_is_no_cause() -> None:
    """A state has no errors in it, so the CompensationError of a later run may have no cause."""
    plan = [fails_after("a"), fails_before("a:undo")]
    exploration = tried(GoesOn.run, None, plan=plan, elsewhere=False)
    assert kinds(exploration) == [], str(exploration)


@workflow.defn
class OutlivesItsSaga:
    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=S) as saga:
            await saga.execute_activity_method(World.do, "a", step="a", compensation=World.undo)
        await workflow.sleep(60)
        return "slept"


def test_no_scope_is_cancelled_once_all_have_ended() -> None:
    """A timeout around a saga that has ended has ended, too."""
    simulation = simulate(OutlivesItsSaga.run, activities=World().activities, faults=[cancel_scope(at=3)])
    assert (simulation.result(), [call.label for call in simulation.calls]) == ("slept", ["a"])


def test_several_slow_calls_are_tried_together() -> None:
    """One alone changes nothing of what the workflow does, and two may outlast what a provider holds."""
    exploration = tried(Steps.run, ["a", "b", "c"], faults=2, kinds=["slow"], elsewhere=False)
    assert exploration.tried == 1 + 3 + 3
