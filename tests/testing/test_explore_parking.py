"""`explore` and what is parked: somebody decides, late or wrong, or nobody does. Parked is not standing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ActivityError
from temporalio.service import RPCError

from examples.payment.activities import Cashier
from examples.payment.models import Order, Refund
from examples.payment.models import State as PaymentState
from examples.payment.provider import Provider
from examples.payment.workflows import Payment
from temporal_saga import Compensation, Parked, Rejected, Saga, current_step, presets
from temporal_saga.testing import (
    Fault,
    SimulatedHandle,
    Simulation,
    SimulationError,
    cancel,
    decision,
    explore,
    fails_after,
    fails_before,
    fault_plans,
    outage,
    simulate,
)

HOUR = timedelta(hours=1)


class Shop:
    """What is charged and not refunded, by key; and whom the reminders have told."""

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}
        self.refunded: set[str] = set()
        self.reminders: list[Parked] = []
        self.activities: list[Callable[..., Any]] = [self.charge, self.refund, self.ship, self.remind]

    @activity.defn
    async def charge(self, amount: int) -> None:
        key = current_step().key
        if key in self.refunded:
            raise Rejected("it was refunded before it came")
        self.charged[key] = amount

    @activity.defn
    async def refund(self, amount: int) -> None:
        key = current_step().forward_key or ""
        self.refunded.add(key)
        self.charged.pop(key, None)

    @activity.defn
    async def ship(self) -> None: ...

    @activity.defn
    async def remind(self, parked: Parked) -> None:
        self.reminders.append(parked)


@workflow.defn
class Buy:
    """Parks its charge and its refund, and reminds somebody each hour."""

    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(
            activity_options=presets.standard(), on_compensation_failure="park", park_reminder=(Shop.remind, HOUR)
        ) as saga:
            await saga.execute_activity_method(Shop.charge, amount, compensation=Shop.refund, on_step_failure="park")
            await saga.execute_activity_method(Shop.ship)


def paid_or_not(shop: Shop, simulation: Simulation[Any]) -> None:
    assert bool(shop.charged) is (simulation.status == "completed"), shop.charged


def bought(*faults: Fault, shop: Shop | None = None, **options: Any) -> Simulation[None]:
    return simulate(Buy.run, 5, activities=(shop or Shop()).activities, faults=faults, **options)


STEP = (fails_after("charge"),)
UNDO = (fails_before("ship"), fails_before("charge:undo"))


# --- one run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("faults", "parked"), [(STEP, "charge"), (UNDO, "charge:undo")])
def test_nobody_decides(faults: tuple[Fault, ...], parked: str) -> None:
    """The run waits for a person, says so, and ends although reminders would go on for ever."""
    shop = Shop()
    simulation = bought(*faults, shop=shop)
    assert (simulation.status, simulation.parked) == ("waiting", [parked])
    assert simulation.waiting_for == f"a person, who decides about what is parked: {parked}"
    assert [each.reminder for each in shop.reminders] == [1]
    assert f"{parked}  ! is parked: it waits for a person" in " ".join(str(simulation).split()).replace(" !", "  !")
    assert simulation.check_replay() is None


@pytest.mark.parametrize(
    ("faults", "ends", "undo_state", "charged"),
    [
        ((*STEP, decision("charge", "retry")), "completed", None, True),
        ((*STEP, decision("charge", "retry", minutes=90)), "completed", None, True),
        ((*STEP, decision("charge", "give_up")), "failed", "DONE", False),
        ((*UNDO, decision("charge:undo", "retry")), "failed", "DONE", False),
        ((*UNDO, decision("charge:undo", "done_by_hand")), "failed", "BY_HAND", False),
        ((*UNDO, decision("charge:undo", "give_up")), "failed", "GIVEN_UP", True),
    ],
    ids=repr,
)
def test_somebody_decides(faults: tuple[Fault, ...], ends: str, undo_state: str | None, charged: bool) -> None:
    """By hand, a person does in the world what the undo would have done there."""
    shop = Shop()
    simulation = bought(*faults, shop=shop)
    (report,) = simulation.reports
    assert (simulation.status, simulation.parked, bool(shop.charged)) == (ends, [], charged)
    assert (report.steps[0].undo_state, report.steps[0].who) == (undo_state, "a person")
    assert simulation.check_replay() is None


@pytest.mark.parametrize(("faults", "label"), [(STEP, "charge"), (UNDO, "charge:undo")])
def test_a_wrong_decision_is_rejected_and_changes_nothing(faults: tuple[Fault, ...], label: str) -> None:
    simulation = bought(*faults, decision(label, "wrong"))
    rejected = [command for command in simulation.commands if command[0] == "update_rejected"]
    said = " ".join(str(command[2]) for command in rejected)
    assert len(rejected) == 4
    assert all(each in said for each in ("'unknown'", "action must be one of", "say who", "say why"))
    assert (simulation.status, simulation.parked) == ("waiting", [label])


def test_a_reminder_comes_as_long_as_anything_else_is_to_happen() -> None:
    """As on the server, while a client sleeps: it is told five times in as many hours."""
    shop = Shop()

    async def client(handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(4.5 * 3600)
        (parked,) = {each.key for each in shop.reminders}
        await handle.execute_update("saga_resolve", args=[parked, "retry", "ann", "the provider is back"])

    simulation = bought(*STEP, shop=shop, client=client)
    assert simulation.status == "completed"
    assert [each.reminder for each in shop.reminders] == [1, 2, 3, 4, 5]


def test_a_decision_about_what_is_not_parked_finds_nothing() -> None:
    with pytest.raises(SimulationError, match=r"decision\('charge', 'retry'\)\] found nothing to strike"):
        bought(decision("charge", "retry"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: decision("charge", cast("Any", "undo")),
            "action='undo': say 'retry', 'done_by_hand', 'give_up', 'wrong'",
        ),
        (lambda: decision("charge", "retry", minutes=-1), "minutes=-1"),
    ],
)
def test_a_decision_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- all of them -----------------------------------------------------------------------------------------------------

FEW: Any = ["fails_before", "fails_after", "cancel", "decision"]
"""What parks, and what ends the waiting: so two faults take a second."""


def test_each_answer_is_tried_and_what_is_parked_is_listed() -> None:
    """An answer does not count as a fault. Nobody's is a run that waits, and no violation."""
    exploration = explore(Buy.run, 5, setup=Shop, check=paid_or_not, faults=2, kinds=FEW, elsewhere=False)
    assert (exploration.parked, exploration.untried) == (["charge", "charge:undo"], 0)
    assert "parked until a person decides: charge, charge:undo" in str(exploration)
    assert (exploration.plain_activities, exploration.without_compensation) == ([], ["ship"])
    answers = {(label, kind.removeprefix("decision ")) for label, kind in exploration.coverage.cells if " " in kind}
    assert answers == {
        *(("charge", answer) for answer in ("retry", "give_up", "wrong")),
        *(("charge:undo", answer) for answer in ("retry", "give_up", "wrong", "done_by_hand")),
    }


class ForgetfulShop(Shop):
    """It charges anew each time that it is asked, whatever the key is."""

    @activity.defn
    async def charge(self, amount: int) -> None:
        key = current_step().key
        self.charged[f"{key}{len(self.charged)}"] = amount

    @activity.defn
    async def refund(self, amount: int) -> None:
        if self.charged:
            self.charged.popitem()


def charged_once(shop: Shop, simulation: Simulation[Any]) -> None:
    assert len(shop.charged) == (simulation.status == "completed"), shop.charged


def test_a_retry_that_charges_twice_is_found() -> None:
    """The reply was lost, it was parked, and a person lets it try again."""
    kinds: Any = ["fails_after", "decision"]
    found = explore(
        Buy.run, 5, setup=ForgetfulShop, check=charged_once, kinds=kinds, elsewhere=False, fail=False
    ).violations
    assert [violation.plan for violation in found] == [(fails_after("charge"), decision("charge", "retry"))]


@workflow.defn
class GivesUpQuietly:
    """Its author catches the error of a step that was given up, and goes on as if it were paid."""

    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=presets.standard()) as saga:
            with suppress(ActivityError):
                await saga.execute_activity_method(
                    Shop.charge, amount, compensation=Shop.refund, on_step_failure="park"
                )
            await saga.execute_activity_method(Shop.ship)


def test_what_follows_a_decision_is_checked() -> None:
    """Given up, it is undone, and shipped all the same."""
    kinds: Any = ["fails_after", "decision"]
    first = explore(
        GivesUpQuietly.run, 5, setup=Shop, check=paid_or_not, kinds=kinds, elsewhere=False, fail=False
    ).violations[0]
    assert first.plan == (fails_after("charge"), decision("charge", "give_up"))


@workflow.defn
class ParksFewTries:
    """An undo that gives up after three tries, before a person."""

    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(
            activity_options=presets.standard(),
            compensation_options=presets.compensation_bounded(),
            on_compensation_failure="park",
        ) as saga:
            await saga.execute_activity_method(Shop.charge, amount, compensation=Shop.refund)
            await saga.execute_activity_method(Shop.ship)


def test_an_outage_may_end_in_front_of_a_person() -> None:
    """What passes by excuses an undo that gives up only if it is parked then."""
    plan = (fails_before("ship"), outage("charge:undo", minutes=60 * 24 * 30))
    assert explore(ParksFewTries.run, 5, setup=Shop, check=paid_or_not, plan=plan, elsewhere=False).violations == []


@workflow.defn
class TimesOut:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=presets.standard(), on_compensation_failure="park") as saga:
            await saga.execute_activity_method(Shop.charge, amount, compensation=Shop.refund)
            await saga.execute_activity_method(Shop.ship)


def test_a_run_that_closes_over_what_is_parked_loses_it() -> None:
    """A timeout of the run does not wait for the person."""
    found = explore(
        TimesOut.run, 5, setup=Shop, check=None, plan=UNDO, run_timeout=timedelta(days=1), elsewhere=False, fail=False
    ).violations
    assert [(violation.kind, "PARKED" in violation.message) for violation in found] == [("closed under a saga", True)]


def test_a_parked_step_and_a_cancel_that_comes_while_it_waits() -> None:
    """The cancel comes behind all else that has happened: it ends the waiting, and the step is undone."""
    simulation = bought(*STEP, cancel(at=bought(*STEP).activations + 1))
    assert simulation.status == "cancelled"
    assert [step.undo_state for step in simulation.reports[0].steps] == ["DONE"]


def test_a_run_that_parks_without_any_fault_is_not_its_good_end() -> None:
    class Broken(Shop):
        @activity.defn
        async def charge(self, amount: int) -> None:
            raise TimeoutError("no answer")

    found = explore(Buy.run, 5, setup=Broken, faults=1, elsewhere=False, fail=False).violations
    assert [(violation.kind, violation.plan) for violation in found] == [("ends otherwise", ())]


def test_hypothesis_draws_decisions() -> None:
    from hypothesis import find, settings

    kinds: Any = ["fails_before", "decision"]
    plans = fault_plans(Buy.run, 5, setup=Shop, faults=2, kinds=kinds)
    found: list[Fault] = find(
        plans, lambda plan: any(fault.kind == "decision" for fault in plan), settings=settings(max_examples=50)
    )
    assert [fault.kind for fault in found] == ["fails_before", "decision"]


# --- the payment -----------------------------------------------------------------------------------------------------


class Ann(Cashier):
    """Asks for a refund, and decides nothing about what is parked: the plans do."""

    def __init__(self) -> None:
        super().__init__(Provider())

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        with suppress(RPCError, WorkflowUpdateFailedError):
            await handle.execute_update(Payment.refund, Refund("r1", 10_00))


def all_or_nothing_is_paid(ann: Ann, simulation: Simulation[Any]) -> None:
    cards: Any = ann.provider.rows("SELECT balance FROM cards WHERE number = '4242'")
    ((balance,),) = cards
    paid = 50_00 if any(call.label == "settle" for call in simulation.calls) else 0
    assert balance == 500_00 - paid + sum(ann.booked())
    if simulation.status == "completed":
        assert simulation.result().state is (PaymentState.SETTLED if paid else PaymentState.DECLINED)


def test_a_payment_holds_whatever_a_person_decides() -> None:
    """Each capture parks: it is tried again, given up, or never decided about, and no money is lost."""
    order = Order("o", "4242", [30_00, 20_00])
    exploration = explore(Payment.run, order, setup=Ann, check=all_or_nothing_is_paid, elsewhere=False)
    assert (exploration.parked, exploration.untried) == (["capture"], 0)
    assert exploration.coverage.at("capture", "decision retry").held >= 4


# --- a child workflow that is parked ---


class Desk:
    """What is booked; it is told neither keys nor whose it is."""

    def __init__(self) -> None:
        self.booked = False
        self.activities: list[Callable[..., Any]] = [self.book, self.cancel, self.ship]

    @activity.defn
    async def book(self) -> None:
        self.booked = True

    @activity.defn
    async def cancel(self) -> None:
        self.booked = False

    @activity.defn
    async def ship(self) -> None: ...


@workflow.defn
class Booking:
    @workflow.run
    async def run(self, what: str) -> None:
        await workflow.execute_activity(what, **presets.standard())


@workflow.defn
class ParksChildren:
    """Its step is a child workflow, and so is the undo; both park."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(on_step_failure="park", on_compensation_failure="park") as saga:
            back = Compensation.child_workflow(Booking.run, "cancel")
            await saga.execute_child_workflow(Booking.run, "book", compensation=back, step="trip")
            await saga.execute_activity_method(Desk.ship, on_step_failure="raise", **presets.standard())


def test_somebody_decides_about_a_child() -> None:
    """A child that has failed for good is tried again or given up; nobody does by hand what a child does."""
    explored = explore(
        ParksChildren.run,
        setup=Desk,
        check=lambda desk, simulation: desk.booked is (simulation.status == "completed"),
        workflows=[Booking],
        faults=2,
        kinds=["fails_before", "decision"],
        elsewhere=False,
    )
    assert explored.parked == ["trip", "trip:undo"]
    answers = {(label, kind.removeprefix("decision ")) for label, kind in explored.coverage.cells if " " in kind}
    assert answers == {(label, answer) for label in explored.parked for answer in ("retry", "give_up", "wrong")}
