"""Workflows that live by their signals, updates and queries."""

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio import activity, workflow
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import CompensationError, Saga, presets
from temporal_saga.testing import SimulatedHandle, Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger

STANDARD = presets.standard()


class Store:
    """Reserves lines and takes payments. Its client puts two lines into a cart, takes one out, and checks out."""

    def __init__(self) -> None:
        self.books = Ledger()
        self.failures: list[str] = []
        self.seen: list[str] = []
        self.activities: list[Callable[..., Any]] = [self.reserve, self.release, self.pay, self.repay, self.notify]

    @activity.defn
    async def reserve(self, line: str) -> None:
        self.books.enter("reserved", 1)

    @activity.defn
    async def release(self, line: str) -> None:
        self.books.reverse()

    @activity.defn
    async def pay(self, what: str) -> None:
        self.books.enter("paid", 1)

    @activity.defn
    async def repay(self, what: str) -> None:
        self.books.reverse()

    @activity.defn
    async def notify(self, text: str) -> None: ...

    async def update(self, handle: SimulatedHandle[Any], name: str, *args: str) -> None:
        try:
            await handle.execute_update(name, *args)
        except WorkflowUpdateFailedError as error:
            self.failures.append(str(error.cause))

    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(1)
        await self.update(handle, "add", "apple")
        await self.update(handle, "add", "pear")
        await self.update(handle, "take_out", "apple")
        await handle.signal("check_out")


class _Basket:
    def __init__(self) -> None:
        self.saga = Saga("cart", activity_options=STANDARD)
        self.is_open = self.checked_out = False
        self.lines: list[str] = []

    async def wait_and_pay(self) -> None:
        async with self.saga as saga:
            self.is_open = True
            await workflow.wait_condition(lambda: self.checked_out)
            await workflow.wait_condition(workflow.all_handlers_finished)
            if not self.lines:
                raise ApplicationError("the cart is empty", non_retryable=True)
            await saga.execute_activity_method(Store.pay, "all", compensation=Store.repay)

    @workflow.update
    async def take_out(self, line: str) -> None:
        await workflow.wait_condition(lambda: self.is_open)
        await self.saga.undo("reserve", key=line)  # also one whose reply was lost, which is on no list
        if line in self.lines:
            self.lines.remove(line)

    @workflow.signal
    def check_out(self) -> None:
        self.checked_out = True


def paid_and_reserved(store: Store, simulation: Simulation[Any]) -> None:
    if simulation.status != "completed":
        assert (store.books["reserved"], store.books["paid"]) == (0, 0)
    else:
        assert store.books["paid"] == 1
        assert store.books["reserved"] >= 1


@workflow.defn
class Cart(_Basket):
    @workflow.run
    async def run(self) -> None:
        await self.wait_and_pay()

    @workflow.update
    async def add(self, line: str) -> None:
        await workflow.wait_condition(lambda: self.is_open)
        await self.saga.execute_activity_method(Store.reserve, line, key=line, compensation=Store.release)
        self.lines.append(line)


class Orders(Store):
    """Its client asks an account for two orders, and closes it."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names or ("o-1", "o-2")

    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(1)
        for name in self.names:
            await self.update(handle, "order", name)
        await handle.signal("close")


class _Open:
    closed = False

    @workflow.signal
    def close(self) -> None:
        self.closed = True

    async def wait(self) -> None:
        await workflow.wait_condition(lambda: self.closed)
        await workflow.wait_condition(workflow.all_handlers_finished)


def both_or_neither(store: Store, simulation: Simulation[Any]) -> None:
    assert store.books["reserved"] == store.books["paid"], store.books.totals


@workflow.defn
class Account(_Open):
    """Each update is a saga of its own; whoever sent it is told how it ended."""

    @workflow.run
    async def run(self) -> None:
        await self.wait()

    @workflow.update
    async def order(self, name: str) -> None:
        async with Saga(f"order {name}", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Store.reserve, name, compensation=Store.release)
            await saga.execute_activity_method(Store.pay, name, compensation=Store.repay)


@workflow.defn
class Inbox:
    """Pays what signals ask for, one after another, until it has paid two."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    @workflow.run
    async def run(self) -> None:
        async with Saga("inbox", activity_options=STANDARD) as saga:
            for _ in range(2):
                await workflow.wait_condition(lambda: bool(self.waiting))
                name = self.waiting.pop(0)
                await saga.execute_activity_method(Store.pay, name, key=name, compensation=Store.repay)

    @workflow.signal
    def ask(self, name: str) -> None:
        self.waiting.append(name)


class Asks(Store):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names or ("a", "b")

    async def client(self, handle: SimulatedHandle[Any]) -> None:
        for name in self.names:
            await asyncio.sleep(1)
            await handle.signal("ask", name)


def two_or_none(store: Store, simulation: Simulation[Any]) -> None:
    assert store.books["paid"] == (2 if simulation.status == "completed" else 0)


# What follows has a bug each.


@workflow.defn
class CountsLines(_Basket):
    """Names a line by how many there are: once one is taken out, the number comes again."""

    @workflow.run
    async def run(self) -> None:
        await self.wait_and_pay()

    @workflow.update
    async def add(self, line: str) -> None:
        await workflow.wait_condition(lambda: self.is_open)
        number = str(len(self.lines))
        await self.saga.execute_activity_method(Store.reserve, line, key=number, compensation=Store.release)
        self.lines.append(line)

    @workflow.update
    async def remove(self, line: str) -> None:
        await workflow.wait_condition(lambda: self.is_open)
        await self.saga.undo("reserve", key=str(self.lines.index(line)))
        self.lines.remove(line)


class AddsAfterRemoving(Store):
    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(1)
        await self.update(handle, "add", "apple")
        await self.update(handle, "add", "pear")
        await self.update(handle, "remove", "apple")
        await self.update(handle, "add", "fig")
        await handle.signal("check_out")


def _two_lines(store: Store, simulation: Simulation[Any]) -> None:
    paid_and_reserved(store, simulation)
    assert not any("twice" in failure or "key" in failure for failure in store.failures), store.failures


@workflow.defn
class DoesNotWaitForTheScope(_Basket):
    """An update calls a step of the saga, whether or not the main method has entered its scope."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(1)
        await self.wait_and_pay()

    @workflow.update
    async def add(self, line: str) -> None:
        await self.saga.execute_activity_method(Store.reserve, line, key=line, compensation=Store.release)
        self.lines.append(line)


class AddsAtOnce(Store):
    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await self.update(handle, "add", "apple")
        await asyncio.sleep(5)
        await handle.signal("check_out")


@workflow.defn
class LosesASaga(_Open):
    """The update answers "failed" to whatever happens, also if an undo failed for good."""

    @workflow.run
    async def run(self) -> None:
        await self.wait()

    @workflow.update
    async def order(self, name: str) -> str:
        try:
            async with Saga(f"order {name}", activity_options=STANDARD) as saga:
                await saga.execute_activity_method(Store.reserve, name, compensation=Store.release)
                await saga.execute_activity_method(Store.pay, name, compensation=Store.repay)
        except (ActivityError, CompensationError):
            return "failed"
        return "done"


@workflow.defn
class OrdersInTheBackground(_Open):
    """The update starts a task and answers at once; the main method ends without waiting for it."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    @workflow.run
    async def run(self) -> None:
        await self.wait()

    @workflow.update
    async def order(self, name: str) -> None:
        self.tasks.append(asyncio.create_task(self.carry_out(name)))

    async def carry_out(self, name: str) -> None:
        await workflow.execute_activity("reserve_plainly", name, **STANDARD)
        await workflow.execute_activity("pay_plainly", name, **STANDARD)


class PlainOrders(Orders):
    def __init__(self) -> None:
        super().__init__("o-1")
        self.activities += [self.reserve_plainly, self.pay_plainly]

    @activity.defn
    async def reserve_plainly(self, name: str) -> None:
        self.books.enter("reserved", 1, f"reserve {name}")

    @activity.defn
    async def pay_plainly(self, name: str) -> None:
        self.books.enter("paid", 1, f"pay {name}")


@workflow.defn
class QueriesWithAnEffect:
    """The query takes a notice off the list, which the main method then sends."""

    def __init__(self) -> None:
        self.notices = ["one", "two"]

    @workflow.run
    async def run(self) -> None:
        async with Saga("notices", activity_options=STANDARD) as saga:
            await workflow.sleep(10)
            for notice in list(self.notices):
                await saga.execute_activity_method(Store.notify, notice)

    @workflow.query
    def next_notice(self) -> str:
        return self.notices.pop(0) if self.notices else ""


class Queries(Store):
    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(5)
        self.seen.append(await handle.query("next_notice"))


@workflow.defn
class ValidatesWithAnEffect(_Open):
    """The validator counts the seat, and is not run again in a replay."""

    def __init__(self) -> None:
        self.seats = 2

    @workflow.run
    async def run(self) -> None:
        async with Saga("seats", activity_options=STANDARD) as saga:
            await self.wait()
            await saga.execute_activity_method(Store.notify, f"{self.seats} seats are left")

    @workflow.update
    async def order(self, name: str) -> None: ...

    @order.validator
    def validate(self, name: str) -> None:
        if not self.seats:
            raise ValueError("no seat is left")
        self.seats -= 1


@workflow.defn
class RaisesInASignal(_Open):
    """A signal that it does not like fails the whole run, and takes back what others had ordered and paid."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("inbox", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Store.pay, "all", compensation=Store.repay)
            await self.wait()

    @workflow.signal
    def ask(self, name: str) -> None:
        if name != "a":
            raise ApplicationError(f"unknown: {name}")


class AsksForMore(Store):
    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(60)
        await handle.signal("close")


@workflow.defn
class ForgetsASignal:
    """Keeps the newest signal only: of two that come while it pays, one is lost."""

    asked: str | None = None

    @workflow.run
    async def run(self) -> None:
        async with Saga("inbox", activity_options=STANDARD) as saga:
            for _ in range(3):
                await workflow.wait_condition(lambda: self.asked is not None)
                name, self.asked = self.asked or "", None
                await saga.execute_activity_method(Store.pay, name, key=name, compensation=Store.repay)

    @workflow.signal
    def ask(self, name: str) -> None:
        self.asked = name


def _three_or_none(store: Store, simulation: Simulation[Any]) -> None:
    assert store.books["paid"] == (3 if simulation.status == "completed" else 0)


def _only_faults_fail_it(store: Store, simulation: Simulation[Any]) -> None:
    if all(fault.kind == "signal" for fault in simulation.faults):
        assert simulation.status == "completed", "a signal has failed the run"


CORRECT = [
    Correct(name="cart", run=Cart.run, setup=Store, check=paid_and_reserved),
    Correct(name="account", run=Account.run, setup=lambda: Orders("o-1"), check=both_or_neither),
    Correct(name="inbox", run=Inbox.run, setup=Asks, check=two_or_none),
    Correct(
        name="account-updated-anytime",
        run=Account.run,
        setup=lambda: Orders("o-1"),
        check=both_or_neither,
        options={"updates": [("order", "o-9")], "kinds": ("cancel", "fails_before", "fails_after", "restart")},
    ),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **changes)


BUGGY = [
    _buggy(
        "key-of-a-length",
        ("reserve", "key"),
        "`key=` is the number of lines: once one is taken out, the next line takes a key that was used.",
        "the check objects without any fault: DuplicateStep",
        run=CountsLines.run,
        setup=AddsAfterRemoving,
        check=_two_lines,
    ),
    _buggy(
        "update-before-the-scope",
        ("reserve", "add"),
        "An update calls a step of a saga whose scope the main method has not entered yet.",
        "the step reserve of a saga that is not open",
        run=DoesNotWaitForTheScope.run,
        setup=AddsAtOnce,
        check=paid_and_reserved,
    ),
    _buggy(
        "update-hides-a-failed-undo",
        ("reserve:undo", "pay:undo"),
        "The update catches CompensationError: an effect stands, and nobody is told.",
        "an undo failed for good, and nobody reported it",
        run=LosesASaga.run,
        setup=lambda: Orders("o-1"),
        check=both_or_neither,
    ),
    _buggy(
        "update-in-the-background",
        ("reserve_plainly", "pay_plainly", "'reserved': 1"),
        "A task of an update is lost when the main method returns.",
        "the check objects: reserved, and not paid",
        run=OrdersInTheBackground.run,
        setup=PlainOrders,
        check=both_or_neither,
    ),
    _buggy(
        "query-with-an-effect",
        ("notify", "next_notice"),
        "A query takes an element off a list of the workflow: a replay, without the query, finds it there.",
        "a replay gives other commands for notify",
        run=QueriesWithAnEffect.run,
        setup=Queries,
    ),
    _buggy(
        "validator-with-an-effect",
        ("notify", "order"),
        "An update's validator changes the workflow's state: a replay does not run it.",
        "a replay gives other arguments for notify",
        run=ValidatesWithAnEffect.run,
        setup=lambda: Orders("o-1"),
    ),
    _buggy(
        "signal-fails-the-run",
        ("ask",),
        "A signal handler raises: one bad signal fails the run, and repays what was paid.",
        "the run fails, after signal('ask', 'zebra')",
        run=RaisesInASignal.run,
        setup=AsksForMore,
        check=_only_faults_fail_it,
        options={"signals": [("ask", "zebra")]},
    ),
    _buggy(
        "signal-overwritten",
        ("pay",),
        "Only the newest signal is kept: the first of two that come while a step runs is lost.",
        "the run never ends, after slow('pay')",
        run=ForgetsASignal.run,
        setup=lambda: Asks("a", "b", "c"),
        check=_three_or_none,
    ),
]
