"""An order: goods are reserved, a card is charged, and past the pivot a parcel leaves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Declined, Saga, current_step, presets
from temporal_saga.classification import Rule, classify_errors
from temporal_saga.errors import FailureKind
from temporal_saga.testing import SimulatedHandle, Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger

STANDARD = presets.standard()


@dataclass
class Order:
    id: str = "o-1"
    cents: int = 500
    quantity: int = 3


class Shop:
    """A warehouse, a payment provider, a carrier and a loyalty program, each with its own ledger."""

    def __init__(self) -> None:
        self.stock = Ledger(reserved=0)
        self.payments = Ledger(paid=0)
        self.parcels = Ledger(shipped=0)
        self.points = Ledger(points=0)
        self.mails: list[str] = []
        self.activities: list[Callable[..., Any]] = [self.reserve, self.release, self.charge, self.refund, self.ship]
        self.activities += [self.add_points, self.remove_points, self.mail, self.give_points]

    @activity.defn
    async def reserve(self, order: Order) -> int:
        self.stock.enter("reserved", order.quantity)
        return order.quantity

    @activity.defn
    async def release(self, order: Order) -> None:
        self.stock.reverse()

    @activity.defn
    async def charge(self, order: Order) -> None:
        self.payments.enter("paid", order.cents)

    @activity.defn
    async def refund(self, order: Order) -> None:
        self.payments.reverse()

    @activity.defn
    async def ship(self, order: Order) -> None:
        self.parcels.enter("shipped", 1)

    @activity.defn
    async def add_points(self, order: Order) -> None:
        self.points.enter("points", order.cents // 100)

    @activity.defn
    async def remove_points(self, order: Order) -> None:
        self.points.reverse()

    @activity.defn
    async def give_points(self, order: Order) -> None:
        """The same for a plain activity, which has no step: once for each order."""
        self.points.enter("points", order.cents // 100, order.id)

    @activity.defn
    async def mail(self, order: Order) -> None:
        self.mails.append(order.id)


def fair(shop: Shop, simulation: Simulation[Any]) -> None:
    """What is shipped is paid for; what is paid for is shipped, unless somebody has to see to the parcel."""
    past_the_pivot = any(call.label == "ship" for call in simulation.calls)
    shipped, paid, reserved = shop.parcels["shipped"], shop.payments["paid"], shop.stock["reserved"]
    assert (paid, reserved) == ((500, 3) if past_the_pivot else (0, 0))
    assert shipped == 1 or simulation.status != "completed"


def _with_points(shop: Shop, simulation: Simulation[Any]) -> None:
    past_the_pivot = any(call.label == "ship" for call in simulation.calls)
    assert shop.payments["paid"] == (500 if past_the_pivot else 0)
    assert shop.points["points"] in ({0, 5} if shop.payments["paid"] else {0})


@workflow.defn
class Purchase:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class PurchaseWithPoints:
    """Points are a courtesy: an order goes on without them."""

    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            try:
                await saga.execute_activity_method(Shop.add_points, order, compensation=Shop.remove_points)
            except ActivityError:
                workflow.logger.warning("no points for %s", order.id)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class PurchaseWithMail:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.mail, order)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)


def _paid_if_completed(shop: Shop, simulation: Simulation[Any]) -> None:
    assert shop.payments["paid"] == (500 if simulation.status == "completed" else 0)


@workflow.defn
class WithADiscount:
    """Changes a copy of the order, and leaves the one that its steps were given."""

    @workflow.run
    async def run(self, order: Order) -> int:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            order = replace(order, cents=order.cents - 100)
            await saga.execute_activity_method(Shop.add_points, order, compensation=Shop.remove_points)
            return order.cents


class DecliningShop(Shop):
    @activity.defn
    async def charge(self, order: Order) -> None:
        raise Declined("the card was declined")


def nothing_happened(shop: Shop, simulation: Simulation[Any]) -> None:
    assert simulation.status != "completed"
    assert (shop.payments["paid"], shop.stock["reserved"], shop.parcels["shipped"]) == (0, 0, 0)


# What follows has a bug each.


@workflow.defn
class SwapsTheUndos:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.refund)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.release)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class ShipsUnpaid:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            try:
                await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            except ActivityError:
                workflow.logger.warning("could not charge %s", order.id)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class CatchesBugs:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            try:
                await saga.execute_activity_method(Shop.add_points, order, compensation=Shop.remove_points)
            except Exception:
                workflow.logger.warning("no points for %s", order.id)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class ForgetsToAwait:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            _ = saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class ForgetsToAwaitTheMail:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            _ = saga.execute_activity_method(Shop.mail, order)


@workflow.defn
class ChargesInTheBackground:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            charge = saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            task = asyncio.create_task(charge)
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            await asyncio.wait([task])
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class WaitsForAFlag:
    """Waits for what a task in the background says, and the task says nothing if it fails."""

    def __init__(self) -> None:
        self.paid = False

    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:

            async def pay() -> None:
                await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
                self.paid = True

            task = asyncio.create_task(pay())
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            await workflow.wait_condition(lambda: self.paid)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


class RefundsWhatTheOrderSays(Shop):
    @activity.defn
    async def refund(self, order: Order) -> None:
        key = current_step().forward_key or ""
        if key in self.payments.applied and key not in self.payments.reversed:
            self.payments.add("paid", -order.cents)
        self.payments.reversed.add(key)


@workflow.defn
class DiscountsTheOrder:
    @workflow.run
    async def run(self, order: Order) -> int:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            order.cents -= 100  # 100 of them come back as points
            await saga.execute_activity_method(Shop.add_points, order, compensation=Shop.remove_points)
            return order.cents


@workflow.defn
class PivotsTooLate:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            await saga.execute_activity_method(Shop.ship, order)
            saga.pivot()


def _shipped_is_paid(shop: Shop, simulation: Simulation[Any]) -> None:
    assert shop.payments["paid"] == (500 if shop.parcels["shipped"] else 0)


@workflow.defn
class PivotsTooEarly:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            saga.pivot()
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class GivesPointsPlainly:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await workflow.execute_activity_method(Shop.give_points, order, **STANDARD)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())


@workflow.defn
class ForgetsAnUndo:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order)
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)


@workflow.defn
class GoesOnAfterARejection:
    """A rejected review compensates, and then the `return` is missing."""

    approved: bool | None = None

    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            await workflow.wait_condition(lambda: self.approved is not None)
            if not self.approved:
                await saga.compensate()
        await workflow.execute_activity("hand_over", order, **presets.forward_only())

    @workflow.signal
    def review(self, approved: bool) -> None:
        self.approved = approved


@workflow.defn
class StopsAfterARejection:
    approved: bool | None = None

    @workflow.run
    async def run(self, order: Order) -> str:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.charge, order, compensation=Shop.refund)
            try:
                await workflow.wait_condition(lambda: self.approved is not None, timeout=timedelta(days=1))
            except asyncio.TimeoutError:
                self.approved = False
            if not self.approved:
                return f"rejected, {(await saga.compensate()).state}"
            saga.pivot()
            await saga.execute_activity_method(Shop.ship, order, **presets.forward_only())
        return "shipped"

    @workflow.signal
    def review(self, approved: bool) -> None:
        self.approved = approved


class ReviewedShop(Shop):
    """The first review comes after a minute; whether another one counts is the workflow's business."""

    def __init__(self, approved: bool = False) -> None:
        super().__init__()
        self.approved = approved
        self.activities.append(self.hand_over)

    @activity.defn
    async def hand_over(self, order: Order) -> None:
        self.parcels.enter("shipped", 1, order.id)

    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(60)
        await handle.signal("review", self.approved)


def _shipped_only_if_paid(shop: Shop, simulation: Simulation[Any]) -> None:
    past_the_pivot = any(call.label == "ship" for call in simulation.calls)
    assert shop.payments["paid"] == (500 if past_the_pivot else 0)
    assert shop.payments["paid"] or not shop.parcels["shipped"], "shipped, and not paid for"


@workflow.defn
class RaisesAValueError:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            if order.cents < 1000:
                raise ValueError("an order has to be worth 10 or more")


@workflow.defn
class RaisesAFailure:
    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            if order.cents < 1000:
                raise ApplicationError("an order has to be worth 10 or more", non_retryable=True)


class AllocatesWhatIsThere(Shop):
    """2 are in stock: an order of 3 gets 2, and its undo puts 3 back."""

    @activity.defn
    async def reserve(self, order: Order) -> int:
        self.stock.enter("reserved", min(order.quantity, 2))
        return min(order.quantity, 2)

    @activity.defn
    async def release(self, order: Order) -> None:
        key = current_step().forward_key or ""
        if key in self.stock.applied and key not in self.stock.reversed:
            self.stock.add("reserved", -order.quantity)
        self.stock.reversed.add(key)


def _two_or_none(shop: Shop, simulation: Simulation[Any]) -> None:
    past_the_pivot = any(call.label == "ship" for call in simulation.calls)
    assert (shop.payments["paid"], shop.stock["reserved"]) == ((500, 2) if past_the_pivot else (0, 0))


class DeclinesTooLate(Shop):
    """Takes the money, finds that the bank wants a confirmation, and says that nothing was taken."""

    @activity.defn
    async def charge(self, order: Order) -> None:
        self.payments.enter("paid", order.cents)
        raise Declined("the bank wants a confirmation")


class GatewayTimeout(Exception):
    """The gateway heard nothing from the bank in time."""


class CallsATimeoutADecline(Shop):
    """The gateway has charged when it times out."""

    @activity.defn
    @classify_errors(rules=[Rule(__name__, "GatewayTimeout", FailureKind.DECLINED)])
    async def charge(self, order: Order) -> None:
        self.payments.enter("paid", order.cents)
        raise GatewayTimeout


class CallsATimeoutAmbiguous(Shop):
    @activity.defn
    @classify_errors(rules=[Rule(__name__, "GatewayTimeout", FailureKind.AMBIGUOUS)])
    async def charge(self, order: Order) -> None:
        self.payments.enter("paid", order.cents)
        raise GatewayTimeout


class TwoEffectsAtOnce(Shop):
    """Charges and adds points in one activity: a crash between the two leaves one, which a retry takes for both."""

    @activity.defn
    async def charge(self, order: Order) -> None:
        if current_step().key in self.payments.applied:
            return
        self.payments.enter("paid", order.cents)
        await asyncio.sleep(1)  # a call to the loyalty program, in which a worker may die
        self.points.enter("points", order.cents // 100, order.id)

    @activity.defn
    async def refund(self, order: Order) -> None:
        self.payments.reverse()
        self.points.reverse(order.id)


def _paid_with_points(shop: Shop, simulation: Simulation[Any]) -> None:
    assert (shop.payments["paid"], shop.points["points"]) in {(0, 0), (500, 5)}


@workflow.defn
class HoldsTheFort:
    """Waits for a pickup that may never come, with the time limit that the client set for the run."""

    picked_up = False

    @workflow.run
    async def run(self, order: Order) -> None:
        async with Saga("order", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Shop.reserve, order, compensation=Shop.release)
            await workflow.wait_condition(lambda: self.picked_up)

    @workflow.signal
    def pick_up(self) -> None:
        self.picked_up = True


class PickedUp(Shop):
    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(10)
        await handle.signal("pick_up")


def _correct(name: str, **changes: Any) -> Correct:
    base: dict[str, Any] = {"run": Purchase.run, "args": (Order(),), "setup": Shop, "check": fair}
    base["without_compensation"] = () if "ends" in changes.get("options", {}) else ("ship",)
    return Correct(name=name, **(base | changes))


CORRECT = [
    _correct("order"),
    _correct("order-points", run=PurchaseWithPoints.run, check=_with_points),
    _correct("order-mail", run=PurchaseWithMail.run, check=_paid_if_completed, without_compensation=("mail",)),
    _correct("order-declined", setup=DecliningShop, check=nothing_happened, options={"ends": "failed"}),
    _correct(
        "order-discount",
        run=WithADiscount.run,
        setup=RefundsWhatTheOrderSays,
        check=_paid_if_completed,
        without_compensation=(),
    ),
    _correct(
        "order-rejected",
        run=StopsAfterARejection.run,
        setup=ReviewedShop,
        check=_shipped_only_if_paid,
        without_compensation=(),
    ),
    _correct(
        "order-approved",
        run=StopsAfterARejection.run,
        setup=lambda: ReviewedShop(approved=True),
        check=_shipped_only_if_paid,
    ),
    _correct("order-too-small", run=RaisesAFailure.run, check=nothing_happened, options={"ends": "failed"}),
    _correct("order-ambiguous", setup=CallsATimeoutAmbiguous, check=nothing_happened, options={"ends": "failed"}),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"run": Purchase.run, "args": (Order(),), "setup": Shop, "check": fair}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


BUGGY = [
    _buggy(
        "undos-swapped",
        ("reserve", "charge"),
        "Each step is paired with the undo of the other: both find nothing to undo.",
        "the check objects once a step has been undone",
        run=SwapsTheUndos.run,
    ),
    _buggy(
        "ships-unpaid",
        ("charge",),
        "The body catches the error of the charge, and ships.",
        "the check objects once charge has failed",
        run=ShipsUnpaid.run,
    ),
    _buggy(
        "catches-bugs",
        ("add_points",),
        "`except Exception` around a step catches a bug too: the order goes on without points.",
        "a bug changed how the run ended, after bug_after('add_points')",
        run=CatchesBugs.run,
        check=_with_points,
    ),
    _buggy(
        "charge-not-awaited",
        ("charge",),
        "The `await` of the charge is missing.",
        "charge was called and never awaited",
        run=ForgetsToAwait.run,
    ),
    _buggy(
        "mail-not-awaited",
        ("mail",),
        "The `await` of a step that nobody checks is missing.",
        "mail was called and never awaited",
        run=ForgetsToAwaitTheMail.run,
        check=_paid_if_completed,
    ),
    _buggy(
        "charged-in-the-background",
        ("charge",),
        "A task that nobody asks for its result charges: its failure is not noticed.",
        "the check objects once charge has failed",
        run=ChargesInTheBackground.run,
    ),
    _buggy(
        "waits-for-ever",
        ("charge",),
        "The body waits for a flag that a failed task never sets.",
        "the run never ends, after charge has failed",
        run=WaitsForAFlag.run,
        check=lambda shop, simulation: True,
    ),
    _buggy(
        "argument-changed",
        ("charge", "add_points"),
        "The body changes the order between the charge and the refund.",
        "the undo of charge got another input than the step",
        run=DiscountsTheOrder.run,
        setup=RefundsWhatTheOrderSays,
        check=_paid_if_completed,
    ),
    _buggy(
        "pivot-too-late",
        ("ship",),
        "The parcel leaves before the pivot: a lost reply refunds what has been shipped.",
        "the check objects, after fails_after('ship')",
        run=PivotsTooLate.run,
        check=_shipped_is_paid,
    ),
    _buggy(
        "pivot-too-early",
        ("charge",),
        "The pivot comes before the charge: goods stay reserved though nobody paid.",
        "the check objects, after charge has failed",
        run=PivotsTooEarly.run,
    ),
    _buggy(
        "plain-activity",
        ("give_points", "charge"),
        "Points are given by a plain activity in the scope: nothing takes them back.",
        "the check objects once a later step has failed",
        run=GivesPointsPlainly.run,
        check=_with_points,
    ),
    _buggy(
        "plain-activity-unchecked",
        ("give_points",),
        "The same, and the check does not look at points.",
        "the plain activity give_points has an effect and no undo: it is listed",
        run=GivesPointsPlainly.run,
        check=None,
        listed=True,
    ),
    _buggy(
        "undo-forgotten",
        ("reserve",),
        "The reservation has no compensation, and the check does not look at stock.",
        "reserve has no compensation: it is listed",
        run=ForgetsAnUndo.run,
        check=_paid_if_completed,
        listed=True,
    ),
    _buggy(
        "ships-after-compensate",
        ("hand_over", "shipped"),
        "After `compensate()` the `return` is missing: what has been refunded is handed over.",
        "the check objects without any fault",
        run=GoesOnAfterARejection.run,
        setup=ReviewedShop,
        check=_shipped_only_if_paid,
    ),
    _buggy(
        "value-error",
        ("ValueError",),
        "A ValueError is to undo the order; it is taken for a bug, and the task fails again and again.",
        "the workflow task fails with ValueError",
        run=RaisesAValueError.run,
        check=nothing_happened,
        options={"ends": "failed"},
    ),
    _buggy(
        "partly-allocated",
        ("reserve", "charge", "cancel"),
        "The step allocates what is there, and the undo puts back what was ordered.",
        "the check objects once reserve has been undone",
        setup=AllocatesWhatIsThere,
        check=_two_or_none,
    ),
    _buggy(
        "declined-after-the-effect",
        ("charge", "paid"),
        "The charge takes the money and then raises Declined, which says that nothing was taken.",
        "the check objects without any fault",
        setup=DeclinesTooLate,
        check=nothing_happened,
        options={"ends": "failed"},
    ),
    _buggy(
        "timeout-classified-as-declined",
        ("charge", "paid"),
        "A rule classifies the gateway's timeout as a decline, though the card may have been charged.",
        "the check objects without any fault",
        setup=CallsATimeoutADecline,
        check=nothing_happened,
        options={"ends": "failed"},
    ),
    _buggy(
        "two-effects-in-one-activity",
        ("charge",),
        "A crash between the two effects of one activity leaves the first, and a retry skips the second.",
        "the check objects once a worker has died inside charge",
        setup=TwoEffectsAtOnce,
        check=_paid_with_points,
    ),
    _buggy(
        "run-timeout",
        ("timed out", "timeout", "wait"),
        "The client sets a timeout for the run: past it nothing is undone.",
        "the run was closed by its timeout while a saga was open",
        run=HoldsTheFort.run,
        setup=PickedUp,
        check=lambda shop, simulation: True,
        options={"run_timeout": timedelta(seconds=25)},
    ),
]
