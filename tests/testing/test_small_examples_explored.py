"""`explore` on the small examples: whatever fails and whenever it is cancelled, each holds what its README says.

To two faults, with nothing untried. Each world plays its clients, and each check is what the owner would want to hold.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError
from temporalio.workflow import ActivityCancellationType

from examples.account.activities import Bank
from examples.account.models import AccountData
from examples.account.models import Order as AccountOrder
from examples.account.workflows import Account
from examples.approval.activities import Desk
from examples.approval.models import DAY as A_DAY
from examples.approval.models import Answer, Purchase
from examples.approval.webhook import deliver
from examples.approval.workflows import Buy
from examples.batch.activities import Ledger
from examples.batch.models import Batch
from examples.batch.workflows import PayAll, PayAllOrNothing, PayOne
from examples.cart.activities import Shop
from examples.cart.models import CartData, Line
from examples.cart.workflows import Cart
from examples.export.activities import Exporter
from examples.export.models import Export
from examples.export.workflows import ExportWorkflow
from examples.onboarding.activities import Office
from examples.onboarding.models import DAY, Signup
from examples.onboarding.workflows import Onboarding
from examples.payment.activities import Cashier
from examples.payment.models import Order, Refund
from examples.payment.models import State as PaymentState
from examples.payment.provider import Provider
from examples.payment.workflows import Payment
from examples.standing_order.activities import Bank as OrderBank
from examples.standing_order.models import DAY as PERIOD
from examples.standing_order.models import LoopState, StandingOrder
from examples.standing_order.workflows import DUE, PayForever, PayPeriod
from examples.versioning.activities import Agency
from examples.versioning.models import Trip
from examples.versioning.workflows import VERSIONS
from temporal_saga.testing import Exploration, Simulation, explore, simulate

pytestmark = [pytest.mark.timeout(900)]

to_two_faults = pytest.mark.parametrize("faults", [1, pytest.param(2, marks=pytest.mark.deep)])


def assert_tried(exploration: Exploration, least: int, free: list[str]) -> None:
    """All was tried, and no step is without a compensation but those that need none.

    How many plans there are changes with the library. Far fewer would be a sign that the search leaves out too much.
    """
    assert (exploration.untried, exploration.without_compensation) == (0, free), str(exploration)
    assert exploration.tried > least


def began(simulation: Simulation[Any], name: str) -> bool:
    return any(call.label == name for call in simulation.calls)


# --- onboarding ---


class Users(Office):
    """A user who answers on the given day, and signs in an hour later."""

    answers_after = DAY

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(self.answers_after)
        await handle.signal(Onboarding.verified)
        await asyncio.sleep(3600)
        await handle.signal(Onboarding.signed_in)


class LateUsers(Users):
    answers_after = 4 * DAY


def all_or_nothing_is_there(office: Users, simulation: Simulation[Any]) -> None:
    there = {table: office.count(table) for table in ("accounts", "workspaces", "roles")}
    assert set(there.values()) == {int(began(simulation, "notify_admin"))}, there


SIGNUP = Signup("ann@example.com", "anvils")


@pytest.mark.slow
@to_two_faults
def test_an_onboarding_keeps_all_or_nothing(faults: int) -> None:
    tried = explore(Onboarding.run, SIGNUP, setup=Users, check=all_or_nothing_is_there, faults=faults)
    assert_tried(tried, {1: 60, 2: 800}[faults], ["notify_admin", "send_verification", "send_welcome"])


def test_an_onboarding_may_be_cancelled_by_its_user_at_any_moment() -> None:
    check = all_or_nothing_is_there
    tried = explore(Onboarding.run, SIGNUP, setup=LateUsers, check=check, signals=["cancel_signup"])
    assert_tried(tried, 80, ["notify_admin", "send_reminder", "send_verification", "send_welcome"])


# --- cart ---


class Customer(Shop):
    """A customer who adds two lines, takes the newer one out, and checks out."""

    async def client(self, handle: Any) -> None:
        changes: list[tuple[Any, Any]] = [
            (Cart.add, Line("1", "teapot", 2)),
            (Cart.add, Line("2", "cup", 4)),
            (Cart.remove, "2"),
            (Cart.check_out, "4242"),
        ]
        for update, argument in changes:
            await asyncio.sleep(60)
            with suppress(WorkflowUpdateFailedError, RPCError):  # a fault's doing
                await handle.execute_update(update, argument)


def goods_are_paid(shop: Customer, simulation: Simulation[Any]) -> None:
    stock: Any = shop.rows(
        "SELECT 5 - sum(on_hand) FROM products WHERE sku = 'teapot' UNION ALL "
        "SELECT 20 - sum(on_hand) FROM products WHERE sku = 'cup'"
    )
    cards: Any = shop.rows("SELECT 50000 - balance FROM cards WHERE number = '4242'")
    (teapots,), (cups,) = stock
    ((paid,),) = cards
    assert paid == teapots * 24_90 + cups * 6_50, (teapots, cups, paid)
    assert (paid > 0) == began(simulation, "ship"), (teapots, cups, paid)


@pytest.mark.slow
@to_two_faults
def test_a_cart_is_paid_or_leaves_the_shop_as_it_was(faults: int) -> None:
    """In two runs: the cart continues as new after three changes."""
    tried = explore(Cart.run, CartData("ann", changes_per_run=3), setup=Customer, check=goods_are_paid, faults=faults)
    assert_tried(tried, {1: 60, 2: 700}[faults], ["ship"])


# --- payment ---


class Ann(Cashier):
    """Looks at what is parked and lets it retry; then there is a refund."""

    def __init__(self) -> None:
        super().__init__(Provider())

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        with suppress(RPCError):  # it has ended
            while (await handle.query(Payment.status)).state is PaymentState.RUNNING:
                with suppress(WorkflowUpdateFailedError):  # the look-up has failed
                    for found in await handle.execute_update(Payment.reconcile):
                        await handle.execute_update("saga_resolve", found.key, "retry", "ann", found.provider_says)
                await asyncio.sleep(60)
            with suppress(WorkflowUpdateFailedError):
                await handle.execute_update(Payment.refund, Refund("r1", 10_00))


def all_or_nothing_is_paid(ann: Ann, simulation: Simulation[Any]) -> None:
    cards: Any = ann.provider.rows("SELECT balance FROM cards WHERE number = '4242'")
    ((balance,),) = cards
    paid = 50_00 if began(simulation, "settle") else 0
    assert ann.booked() in ([], [10_00])
    assert balance == 500_00 - paid + sum(ann.booked())


@pytest.mark.slow
@to_two_faults
def test_a_payment_is_paid_in_all_parts_or_in_none(faults: int) -> None:
    order = Order("o", "4242", [30_00, 20_00])
    tried = explore(Payment.run, order, setup=Ann, check=all_or_nothing_is_paid, faults=faults)
    assert_tried(tried, {1: 70, 2: 1_300}[faults], ["settle"])


# --- versioning ---


class Traveler(Agency):
    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        await handle.signal("paid")


def both_are_booked_or_neither(agency: Traveler, simulation: Simulation[Any]) -> None:
    assert len(agency.bookings) == (2 if simulation.status == "completed" else 0)


@pytest.mark.parametrize("version", VERSIONS)
@to_two_faults
def test_each_version_books_both_or_neither(version: int, faults: int) -> None:
    run: Any = VERSIONS[version].run  # type: ignore[attr-defined]
    tried = explore(run, Trip("Ann", "Rome"), setup=Traveler, check=both_are_booked_or_neither, faults=faults)
    assert_tried(tried, {1: 20, 2: 170}[faults], [])


# --- batch ---


class Payout(Ledger):
    """A payout of so many transfers; every so many accounts are closed."""

    count, closed_every = 1, 20

    def __init__(self) -> None:
        super().__init__()
        self.prepare("p", self.count, self.closed_every)

    def balances(self) -> dict[str, int]:
        found: Any = self.rows("SELECT name, balance FROM accounts")
        return dict(found)


class TwoOfWhichOneIsClosed(Payout):
    count, closed_every = 2, 2


def the_summary_is_right(ledger: Payout, simulation: Simulation[Any]) -> None:
    accounts = ledger.balances()
    left, paid = accounts.pop("funds"), sum(accounts.values())
    assert (left + paid, set(accounts.values()) <= {0, 1_00}) == (ledger.count * 1_00, True), accounts
    if simulation.status == "completed":
        assert simulation.result().paid * 1_00 == paid


def all_are_paid_or_none(ledger: Payout, simulation: Simulation[Any]) -> None:
    the_summary_is_right(ledger, simulation)
    assert ledger.balances()["funds"] in (0, ledger.count * 1_00)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pay", "world", "faults", "check"),
    [
        pytest.param(PayAll, Payout, 2, the_summary_is_right, marks=pytest.mark.deep),
        (PayAll, TwoOfWhichOneIsClosed, 1, the_summary_is_right),
        pytest.param(PayAll, TwoOfWhichOneIsClosed, 2, the_summary_is_right, marks=pytest.mark.deep),
        pytest.param(PayAllOrNothing, Payout, 2, all_are_paid_or_none, marks=pytest.mark.deep),
        (PayAllOrNothing, TwoOfWhichOneIsClosed, 1, all_are_paid_or_none),
        pytest.param(PayAllOrNothing, TwoOfWhichOneIsClosed, 2, all_are_paid_or_none, marks=pytest.mark.deep),
    ],
)
def test_a_payout_loses_nothing(pay: Any, world: type[Payout], faults: int, check: Any) -> None:
    batch = Batch("p", 0, world.count)
    tried = explore(pay.run, batch, workflows=[PayOne], setup=world, check=check, faults=faults)
    # Its undos are those of the saga that it hands over. With two faults some plan undoes one of them.
    assert_tried(tried, {1: 50, 2: 140}[faults], [])


# --- export ---


class Disk(Exporter):
    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        super().__init__(Path(self._temporary.name))

    def close(self) -> None:
        self._temporary.cleanup()


def the_half_is_removed(disk: Disk, simulation: Simulation[Any]) -> None:
    assert disk.pages() == (3 if began(simulation, "publish") else 0), disk.log()


@to_two_faults
def test_an_export_is_published_whole_or_removed(faults: int) -> None:
    export = Export("sales", 3, seconds_a_page=1)
    tried = explore(ExportWorkflow.run, export, setup=Disk, check=the_half_is_removed, faults=faults)
    assert_tried(tried, {1: 20, 2: 80}[faults], ["publish"])


# --- account ---


class Owner(Bank):
    """Brings in 100.00, pays out 30.00, and closes the account."""

    async def client(self, handle: Any) -> None:
        orders: list[tuple[Any, Any]] = [
            (Account.bring_in, AccountOrder("1", "4242", 100_00)),
            (Account.pay_out, AccountOrder("2", "4242", 30_00)),
        ]
        for update, order in orders:
            await asyncio.sleep(60)
            with suppress(WorkflowUpdateFailedError, RPCError):  # a fault's doing
                await handle.execute_update(update, order)
        with suppress(RPCError):
            await handle.signal(Account.close)


def the_journal_is_right(bank: Owner, simulation: Simulation[Any]) -> None:
    cards: Any = bank.rows("SELECT balance FROM cards WHERE number = '4242'")
    lines: Any = bank.rows("SELECT coalesce(sum(amount), 0) FROM journal")
    ((card,),), ((journal,),) = cards, lines
    assert card + journal == 500_00
    if simulation.status == "completed":
        assert simulation.result() == journal


@pytest.mark.slow
@to_two_faults
def test_each_order_of_an_account_is_done_or_undone(faults: int) -> None:
    """In three runs: the account continues as new after each order."""
    account = AccountData("ann", orders_per_run=1)
    tried = explore(Account.run, account, setup=Owner, check=the_journal_is_right, faults=faults)
    assert_tried(tried, {1: 45, 2: 350}[faults], [])


# --- approval ---


class Approvers(Desk):
    """A manager who approves after an hour, and finance, which answers on the next day and calls again if need be."""

    finance_approves = True

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        with suppress(WorkflowUpdateFailedError, RPCError):  # a fault's doing
            await handle.execute_update(Buy.decide, Answer(True, "ann"))
        for _ in range(4):
            await asyncio.sleep(A_DAY * 0.9)
            for (ticket,) in self.rows("SELECT id FROM tickets"):
                await deliver(handle, self, str(ticket), Answer(self.finance_approves, "eve"))


class ApproversWhoSayNo(Approvers):
    finance_approves = False


def the_budget_pays_for_what_is_ordered(desk: Approvers, simulation: Simulation[Any]) -> None:
    """And no ticket is left open, nor approved if nothing was ordered."""
    state: Any = desk.rows(
        "SELECT (SELECT 500000 - remaining FROM budgets), (SELECT count(*) FROM orders), "
        "(SELECT count(*) FROM tickets WHERE state = 'open'), (SELECT count(*) FROM tickets WHERE state = 'approved')"
    )
    ((spent, orders, still_open, approved),) = state
    began_order = began(simulation, "place_order")
    assert (spent, still_open, approved) == (120_00 * began_order, 0, int(began_order)), state
    assert orders <= began_order


PURCHASE = Purchase("p", "anvils", "a forge", 120_00)


@pytest.mark.slow
@to_two_faults
def test_a_purchase_is_approved_by_both_or_costs_nothing(faults: int) -> None:
    check = the_budget_pays_for_what_is_ordered
    tried = explore(Buy.run, PURCHASE, setup=Approvers, check=check, faults=faults)
    assert_tried(tried, {1: 40, 2: 300}[faults], ["await_answer", "place_order"])


def test_a_purchase_that_finance_rejects_costs_nothing() -> None:
    check = the_budget_pays_for_what_is_ordered
    tried = explore(Buy.run, PURCHASE, setup=ApproversWhoSayNo, check=check)
    assert_tried(tried, 50, ["await_answer"])


@pytest.mark.parametrize("wait", list(ActivityCancellationType)[:2])
def test_a_cancel_of_a_purchase_lasts_as_its_option_says(
    monkeypatch: pytest.MonkeyPatch, wait: ActivityCancellationType
) -> None:
    """At once with TRY_CANCEL. By default until the attempt times out, which is a day."""
    monkeypatch.setattr("examples.approval.workflows.ON_CANCEL", wait)
    desk = Desk()

    async def client(handle: Any) -> None:
        await handle.execute_update(Buy.decide, Answer(True, "ann"))
        await asyncio.sleep(3600)
        await handle.cancel()

    simulation = simulate(Buy.run, PURCHASE, activities=desk.activities, client=client)
    assert (simulation.status, desk.open_tickets()) == ("cancelled", [])
    waits = wait is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    assert simulation.duration // timedelta(hours=1) == (24 if waits else 1)
    desk.close()


# --- standing order ---


class Tenant(OrderBank):
    """Wants to pay more after an hour."""

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        with suppress(WorkflowUpdateFailedError, RPCError):  # a fault's doing
            await handle.execute_update(PayForever.change_amount, 20_00)

    def paid(self) -> list[Any]:
        return [period for (period,) in self.rows("SELECT period FROM periods ORDER BY period")]


def each_period_is_paid_or_nothing_of_it(bank: Tenant, simulation: Simulation[Any]) -> None:
    accounts: Any = bank.rows("SELECT name, balance FROM accounts")
    periods: Any = bank.rows("SELECT count(*), coalesce(sum(amount), 0) FROM periods")
    balance, ((count, paid),) = dict(accounts), periods
    assert (balance["ann"], balance["landlord"]) == (1000_00 - paid, paid), balance
    if simulation.status == "completed":
        assert count == simulation.result().paid


RENT = StandingOrder("rent", "ann", "landlord", 10_00, payments=2)


@pytest.mark.slow
@to_two_faults
def test_a_period_of_a_standing_order_is_paid_or_nothing_of_it(faults: int) -> None:
    """The loop, which pays in the same way, is replayed elsewhere."""
    due = TypedSearchAttributes([SearchAttributePair(DUE, datetime(2030, 1, 1, tzinfo=timezone.utc))])
    options: Any = {"search_attributes": due, "faults": faults, "elsewhere": False}
    options["check"] = each_period_is_paid_or_nothing_of_it
    tried = explore(PayPeriod.run, RENT, setup=OrderBank, **options)
    assert_tried(tried, {1: 25, 2: 240}[faults], [])


@pytest.mark.slow
@to_two_faults
def test_a_loop_of_a_standing_order_pays_each_period_or_nothing_of_it(faults: int) -> None:
    """In two runs. A fault leaves a period out, and the loop goes on."""
    check = each_period_is_paid_or_nothing_of_it
    tried = explore(PayForever.run, LoopState(RENT, periods_per_run=1), setup=Tenant, check=check, faults=faults)
    assert_tried(tried, {1: 60, 2: 1_300}[faults], [])


def test_what_begins_in_a_pause_is_not_paid_and_an_outage_is_made_up_for_in_part() -> None:
    """Of ten periods that were due when the loop began, the latest three are paid."""
    bank = Tenant()
    today = int(datetime(2030, 1, 1, tzinfo=timezone.utc).timestamp()) // PERIOD

    async def client(handle: Any) -> None:
        await asyncio.sleep(1.5 * PERIOD)
        await handle.signal(PayForever.pause)
        await asyncio.sleep(3 * PERIOD)
        await handle.signal(PayForever.resume)
        await asyncio.sleep(2 * PERIOD)
        await handle.signal(PayForever.stop)

    order = StandingOrder("rent", "ann", "landlord", 10_00)
    simulation = simulate(
        PayForever.run, LoopState(order, next_period=today - 10), activities=bank.activities, client=client
    )
    assert [period - today for period in bank.paid()] == [-2, -1, 0, 1, 5, 6]
    assert (simulation.result().paid, simulation.check_replay()) == (6, None)
    bank.close()
