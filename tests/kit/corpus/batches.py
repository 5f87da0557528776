"""Payouts in batches, one run of the workflow for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio import activity, workflow

from temporal_saga import Rejected, Saga, SagaState, business_key, current_step, presets
from temporal_saga.testing import Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger, step_key

STANDARD = presets.standard()


@dataclass
class Payout:
    account: str
    cents: int
    month: int = 1


class Payroll:
    """Pays, takes payments back, and reports."""

    def __init__(self) -> None:
        self.books = Ledger()
        self.activities: list[Callable[..., Any]] = [self.pay, self.take_back, self.report]

    @activity.defn
    async def pay(self, payout: Payout) -> None:
        self.books.enter(payout.account, payout.cents)

    @activity.defn
    async def take_back(self, payout: Payout) -> None:
        self.books.reverse()

    @activity.defn
    async def report(self, month: int) -> None: ...


PAYOUTS = [Payout("ada", 10), Payout("grace", 20)]


def all_or_none(payroll: Payroll, simulation: Simulation[Any]) -> None:
    paid = 30 if simulation.status == "completed" else 0
    assert payroll.books["ada"] + payroll.books["grace"] == paid, payroll.books.totals


@workflow.defn
class Batches:
    @workflow.run
    async def run(self, payouts: list[Payout], state: SagaState | None) -> None:
        async with Saga("payroll", activity_options=STANDARD, state=state) as saga:
            await saga.execute_activity_method(Payroll.pay, payouts[0], compensation=Payroll.take_back)
            if len(payouts) > 1:
                workflow.continue_as_new(args=[payouts[1:], saga.detach()])


@workflow.defn
class Months:
    """A subscription: each month is final."""

    @workflow.run
    async def run(self, payout: Payout) -> None:
        async with Saga("month", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Payroll.pay, payout, compensation=Payroll.take_back)
        if payout.month < 2:
            await workflow.sleep(30 * 24 * 3600)
            workflow.continue_as_new(Payout(payout.account, payout.cents, payout.month + 1))


def _each_month(payroll: Payroll, simulation: Simulation[Any]) -> None:
    assert payroll.books["ada"] in ({20} if simulation.status == "completed" else {0, 10}), payroll.books.totals


# What follows has a bug each.


@workflow.defn
class ContinuesInTheScope:
    @workflow.run
    async def run(self, payouts: list[Payout]) -> None:
        async with Saga("payroll", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Payroll.pay, payouts[0], compensation=Payroll.take_back)
            if len(payouts) > 1:
                workflow.continue_as_new(payouts[1:])


@workflow.defn
class ContinuesAfterTheScope:
    @workflow.run
    async def run(self, payouts: list[Payout]) -> None:
        async with Saga("payroll", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Payroll.pay, payouts[0], compensation=Payroll.take_back)
        if len(payouts) > 1:
            workflow.continue_as_new(payouts[1:])


@workflow.defn
class DetachesAndForgets:
    @workflow.run
    async def run(self, payouts: list[Payout], state: SagaState | None) -> None:
        async with Saga("payroll", activity_options=STANDARD, state=state) as saga:
            await saga.execute_activity_method(Payroll.pay, payouts[0], compensation=Payroll.take_back)
            if len(payouts) > 1:
                saga.detach()
                workflow.continue_as_new(args=[payouts[1:], None])


@workflow.defn
class NamesPayoutsByPlace:
    """`key=` is the place in the batch, which each batch counts from 0."""

    @workflow.run
    async def run(self, payouts: list[Payout], state: SagaState | None) -> None:
        async with Saga("payroll", activity_options=STANDARD, state=state) as saga:
            for place, payout in enumerate(payouts[:1]):
                await saga.execute_activity_method(Payroll.pay, payout, key=str(place), compensation=Payroll.take_back)
            if len(payouts) > 1:
                workflow.continue_as_new(args=[payouts[1:], saga.detach()])


class PaysOnceEver(Payroll):
    """The key names the account, and not the month."""

    @activity.defn
    async def pay(self, payout: Payout) -> None:
        if current_step().key in self.books.reversed:
            raise Rejected("taken back before it came")
        key = business_key("salary", payout.account)
        if key not in self.books.applied:
            self.books.applied[key] = (payout.account, payout.cents)
            self.books.add(payout.account, payout.cents)

    @activity.defn
    async def take_back(self, payout: Payout) -> None:
        self.books.reversed.add(step_key())
        key = business_key("salary", payout.account)
        if self.books.applied.pop(key, None):
            self.books.add(payout.account, -payout.cents)


@workflow.defn
class DetachesTooEarly:
    """Detaches, and then has one more effect in the old run."""

    @workflow.run
    async def run(self, payouts: list[Payout], state: SagaState | None) -> None:
        async with Saga("payroll", activity_options=STANDARD, state=state) as saga:
            await saga.execute_activity_method(Payroll.pay, payouts[0], compensation=Payroll.take_back)
            if len(payouts) > 1:
                state = saga.detach()
                await workflow.execute_activity_method(Payroll.report, 1, **STANDARD)
                workflow.continue_as_new(args=[payouts[1:], state])


class RaisesEachTime(Payroll):
    """Raises a total once a month by what it is now."""

    @activity.defn
    async def pay(self, payout: Payout) -> None:
        key = current_step().key
        if key in self.books.reversed:
            raise Rejected("taken back before it came")
        if key not in self.books.applied:
            self.books.applied[key] = (payout.account, payout.cents)
        self.books.totals[payout.account] = self.books[payout.account] + payout.cents

    @activity.defn
    async def take_back(self, payout: Payout) -> None:
        if step_key() in self.books.applied:
            self.books.totals[payout.account] = 0
        self.books.reversed.add(step_key())


CORRECT = [
    Correct(name="batches", run=Batches.run, args=(PAYOUTS, None), setup=Payroll, check=all_or_none),
    Correct(name="months", run=Months.run, args=(Payout("ada", 10),), setup=Payroll, check=_each_month),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"args": (PAYOUTS, None), "setup": Payroll, "check": all_or_none}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


BUGGY = [
    _buggy(
        "continued-in-the-scope",
        ("detach",),
        "`continue_as_new` in a scope that holds compensations.",
        "the workflow task fails: detach() first",
        run=ContinuesInTheScope.run,
        args=(PAYOUTS,),
    ),
    _buggy(
        "continued-after-the-scope",
        ("pay", "cancel"),
        "Each batch is a saga of its own: a later failure does not take the earlier batches back.",
        "the check objects once the second pay has failed",
        run=ContinuesAfterTheScope.run,
        args=(PAYOUTS,),
    ),
    _buggy(
        "state-forgotten",
        ("pay", "cancel"),
        "`detach()` is called, and its state is not passed on.",
        "pay took effect in the first run and was not undone",
        run=DetachesAndForgets.run,
    ),
    _buggy(
        "state-forgotten-unchecked",
        ("pay",),
        "The same without a check: a detached state that nobody takes over.",
        "pay took effect in the first run and was not undone",
        run=DetachesAndForgets.run,
        check=None,
    ),
    _buggy(
        "key-of-the-place",
        ("pay",),
        "`key=` is the place in a batch: the next run takes a key that was used.",
        "pay was called twice with the key 0",
        run=NamesPayoutsByPlace.run,
    ),
    _buggy(
        "business-key-without-the-month",
        ("ada", "pay"),
        "The business key leaves the month out: the second month is not paid.",
        "the check objects without any fault",
        run=Months.run,
        args=(Payout("ada", 10),),
        setup=PaysOnceEver,
        check=_each_month,
    ),
    _buggy(
        "detached-too-early",
        ("report", "cancel"),
        "Between `detach()` and continue-as-new something may fail: nobody holds the compensations then.",
        "pay took effect and was not undone, after report has failed",
        run=DetachesTooEarly.run,
    ),
    _buggy(
        "total-overwritten",
        ("pay",),
        "The step's record is kept by its key, and its effect is repeated all the same.",
        "the check objects once pay has run twice",
        run=Batches.run,
        setup=RaisesEachTime,
    ),
]
