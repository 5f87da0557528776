"""The storm: many transfers and orders, while all that they rely on is killed, late, slow or refuses."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger
from examples.money_transfer.models import Transfer, TransferResult, TransferStatus
from examples.money_transfer.workflows import MoneyTransfer
from examples.order.models import Line, Order, OrderState, OrderStatus
from examples.order.store import Store
from examples.order.workflows import OrderWorkflow
from temporal_saga.plugin import SagaPlugin
from tests.examples.databases import schema_on
from tests.postgres import server as postgres

from .faults import UNDOS, fault_of
from .judge import End, Verdict, judge_orders, judge_transfers
from .operator import Operator
from .processes import ATTRIBUTE, ROOT, Server, Setting, Workers, broken_copy, insist
from .resets import reset, reset_of
from .worker import QUEUE, WORKFLOWS, runner
from .workflows import PATCH, ByHandTransfer, Job, ParkingTransfer

_ACCOUNTS = [f"account-{number}" for number in range(20)]
_BALANCE = 1_000_000_00
_STOCK = 1_000_000


@dataclass(frozen=True)
class Options:
    """What to do.

    Attributes:
        transfers: How many transfers to make; there is an order for each four of them.
        seed: Of all plans.
        minutes: Start nothing after so long; None for no limit.
        by_hand: The transfers are those of the hand-written idiom, and there are no orders.
        keys: Whether the bank honors keys.
        mutant: The broken copy of the library that the workers run; None for the library.
        database: Where the transfers' ledger is: "postgresql" or "sqlite".
        patience: After how many seconds without a fault what is open counts as stuck.
        at_once: How many run at the same time; of few, half of them, so that some start after the deployment.
        parking: Only transfers of which something is parked.
    """

    transfers: int = 200
    seed: str = "1"
    minutes: float | None = None
    by_hand: bool = False
    keys: bool = True
    mutant: str | None = None
    database: str = "postgresql"
    patience: float = 60
    at_once: int = 40
    parking: bool = False


@dataclass
class Figures:
    """What happened, and what is wrong; the line that the storm prints.

    Attributes:
        deployments: Rolling ones, from the previous release of the workflows to the current one.
        on_both: Workflows which both releases have worked on.
        patched: Workflows that have taken the way of the current release.
        resets: Of transfers; what they have lost is counted apart, in `reset_lost`, and is not wrong.
        named: Workflows whose report names what was not undone.
    """

    transfers: int = 0
    orders: int = 0
    kills: int = 0
    faults: int = 0
    cancels: int = 0
    duplicates: int = 0
    decisions: int = 0
    deployments: int = 0
    on_both: int = 0
    patched: int = 0
    resets: int = 0
    named: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    not_replayed: list[str] = field(default_factory=list)
    not_listed: list[str] = field(default_factory=list)
    reset_lost: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """All that is wrong, a line for each."""
        named = {name: getattr(self, name) for name in ("lost", "doubled", "stuck", "not_replayed", "not_listed")}
        return [f"{name}: {line}" for name, lines in named.items() for line in lines]

    def __str__(self) -> str:
        parts = ((name.replace("_", " "), value) for name, value in vars(self).items())
        return ", ".join(f"{name} {len(value) if isinstance(value, list) else value}" for name, value in parts)


class Storm:
    """One storm."""

    def __init__(self, options: Options, directory: Path, ledger: str) -> None:
        self._options = options
        self._figures = Figures()
        self._directory = directory
        (directory / "healed").mkdir()
        self._bank = Bank(Ledger(ledger))
        for name in _ACCOUNTS:
            self._bank.ledger.open_account(name, "EUR", _BALANCE)
        self._bank.ledger.freeze(_ACCOUNTS[0])
        self._store = Store(directory / "shop.sqlite3")
        self._store.add_product("cup", price=1_00, on_hand=_STOCK)
        self._store.add_carrier("swift", pickups=options.transfers // 10, labels=options.transfers // 20)
        self._store.add_carrier("post", pickups=0, labels=0)
        self._store.add_carrier(
            "post", pickups=_STOCK - options.transfers // 10, labels=_STOCK - options.transfers // 20
        )
        self._server = Server(directory)
        self._server.start()
        bed = ROOT
        if options.mutant is not None:
            (directory / "broken").mkdir()
            bed = broken_copy(directory / "broken", options.mutant)
        self._setting = Setting(
            self._server.address,
            ledger,
            str(directory),
            options.seed,
            faults=True,
            keys=options.keys,
            undos_refused=not options.by_hand,
        )
        self._workers = Workers(self._setting, 2, bed, release="previous")
        self._client: Client
        self._transfers: dict[str, Transfer] = {}
        self._handles: dict[str, WorkflowHandle[Any, Any]] = {}
        self._ends: dict[str, End] = {}
        self._replaced: dict[str, str] = {}  # by a reset: workflow id -> run id
        self._running: list[asyncio.Task[None]] = []

    async def run(self) -> Figures:
        """Let it rage, then look at what is left."""
        figures, options = self._figures, self._options
        try:
            self._client = await self._server.connect()
            operator = Operator(self._client, self._bank, self._setting.directory, options.seed, self._transfers)
            async with _running(operator.run()):
                async with _running(self._kill()), _running(self._deploy()):
                    await self._start_all()
                if not len(self._workers):
                    self._workers.start()
                await self._wait()
            figures.decisions = operator.decisions
            await self._look_at_list()
            await self._replay()
        finally:
            self._workers.close()
            self._server.kill()
        self._judge()
        return figures

    async def _start_all(self) -> None:
        at_once = max(min(self._options.at_once, self._options.transfers // 2), 1)
        room = asyncio.Semaphore(at_once)
        end = time.monotonic() + 60 * (self._options.minutes or 1e6)

        async def one(number: int) -> None:
            async with room:
                if time.monotonic() < end:
                    await self._live(number)

        running = self._running = [asyncio.create_task(one(number)) for number in self._numbers()]
        figures = self._figures
        # The last ones are waited for when nothing is killed any more; and so are all, if none ends for long.
        enough = max(len(running) - at_once // 2, len(running) * 0.7)
        ended, since = 0, time.monotonic()
        while (
            ended < enough or not figures.kills or not figures.deployments
        ) and time.monotonic() - since < self._options.patience:
            await asyncio.sleep(0.1)
            if (done := self._done()) > ended:
                ended, since = done, time.monotonic()

    def _numbers(self) -> Iterable[int]:
        """Return the numbers of the plan's jobs."""

        def parks(number: int) -> bool:
            kinds = [fault_of(self._options.seed, f"transfer-{number}", name).kind for name in UNDOS.values()]
            return "refused" in kinds[:3]  # those of a transfer

        return islice(filter(parks, count()) if self._options.parking else count(), self._options.transfers)

    def _done(self) -> int:
        return sum(task.done() for task in self._running)

    async def _live(self, number: int) -> None:
        """Start a transfer, and for each fourth an order; do to them what the plan says; wait for their end."""
        random = Random(f"{self._options.seed}/job/{number}")
        lives = [self._transfer(f"transfer-{number}", random)]
        if number % 4 == 0 and not self._options.by_hand:
            lives.append(self._order(f"order-{number}", random))
        await asyncio.gather(*lives)

    async def _transfer(self, id: str, random: Random) -> None:
        source, target = random.sample(_ACCOUNTS, 2)
        transfer = self._transfers[id] = Transfer(id, source, target, random.randint(1, 100_00), "EUR")
        job = Job(transfer, random.random() < 0.4, random.choice([0, 0, 1, 3]), random.random() < 0.3)
        self._figures.transfers += 1
        if self._options.by_hand:
            await self._run(id, random, ByHandTransfer.run, job)
        elif random.random() < 0.3 and not self._options.parking:
            await self._run(id, random, MoneyTransfer.run, transfer)
        else:
            await self._run(id, random, ParkingTransfer.run, job)

    async def _order(self, id: str, random: Random) -> None:
        self._store.add_card(id, random.choice([0, 100_00, 100_00, 100_00]))
        order = Order(id, f"{id}@example", id, [Line("cup", 1)])
        self._figures.orders += 1
        signal = "cancel_order" if random.random() < 0.2 else "shipment_ready"
        await self._run(id, random, OrderWorkflow.run, order, signal)

    async def _run(self, id: str, random: Random, run: Any, arg: Any, signal: str | None = None) -> None:
        async def start() -> WorkflowHandle[Any, Any]:
            return await self._client.start_workflow(
                run,
                arg,
                id=id,
                task_queue=QUEUE,
                task_timeout=timedelta(seconds=3),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )

        # After so many events: seconds would mean another moment on each machine.
        first = random.randint(3, 45)
        cancels = random.choice([[], [], [], [first], [first, first + random.randint(1, 12)]])
        # The answer to the first try may be lost.
        with suppress(WorkflowAlreadyStartedError):
            await insist(start)
        handle = self._handles[id] = self._client.get_workflow_handle_for(run, id)
        if signal is not None:
            await _unless_closed(lambda: handle.signal(signal, id))
        if random.random() < 0.1:
            self._figures.duplicates += 1
            try:
                await insist(start)
                self._figures.doubled.append(f"{id} was started twice")
            except WorkflowAlreadyStartedError:
                pass
        cancelling = asyncio.create_task(self._cancel(handle, cancels))
        plan = reset_of(self._options.seed, id)
        if plan is not None and id in self._transfers:  # of the orders the shelf is judged as a whole
            self._replaced[id] = await reset(self._client, handle, plan)
            self._figures.resets += 1
        try:
            self._ends[id] = _end_of(await insist(handle.result, seconds=3600))
        except WorkflowFailureError as error:
            self._ends[id] = _end_of(error.cause)
        await cancelling

    async def _cancel(self, handle: WorkflowHandle[Any, Any], after: list[int]) -> None:
        for events in after:
            while (await insist(handle.describe)).history_length < events and handle.id not in self._ends:
                await asyncio.sleep(0.2)
            if handle.id in self._ends:
                return
            self._figures.cancels += 1
            await _unless_closed(handle.cancel)

    async def _kill(self) -> None:
        random = Random(f"{self._options.seed}/kills")
        ended = -1
        while True:
            await asyncio.sleep(random.uniform(2, 5))
            while len(self._ends) == ended:  # a slow machine would do nothing but start processes
                await asyncio.sleep(0.1)
            ended = len(self._ends)
            (what,) = random.choices(["worker", "workers", "server", "all"], [55, 15, 20, 10])
            which, away = random.randrange(2), random.uniform(0, 1.5)
            victims = 1 if what == "worker" else 0 if what == "server" else len(self._workers)
            for _ in range(victims):
                self._workers.kill(which)
            if what in ("server", "all"):
                self._server.kill()
            self._figures.kills += victims + (what in ("server", "all"))
            try:
                await asyncio.sleep(away)
            finally:
                if what in ("server", "all"):
                    self._server.start()
                for _ in range(victims):
                    self._workers.start()

    async def _deploy(self) -> None:
        """Replace one worker after the other, in the middle of the storm."""
        random = Random(f"{self._options.seed}/deployment")
        begin = random.uniform(0.2, 0.5) * self._options.transfers
        while self._done() < begin:
            await asyncio.sleep(0.1)
        self._workers.release = "current"
        for _ in range(2):
            self._workers.roll()
            await asyncio.sleep(random.uniform(0.5, 3))
        self._figures.deployments += 1

    async def _wait(self) -> None:
        _, stuck = await asyncio.wait(self._running, timeout=self._options.patience)
        for task in stuck:
            task.cancel()
        for task in self._running:
            if not task.cancelled() and task.done():
                task.result()
        self._figures.stuck = [id for id in self._handles if id not in self._ends]

    async def _look_at_list(self) -> None:
        """Whatever has named something that stands must be found in the list of workflows."""
        named = {id for id, end in self._ends.items() if end.named}
        self._figures.named = len(named)
        found: set[str] = set()
        for _ in range(20):  # the list may lag behind
            incomplete = self._client.list_workflows(f'{ATTRIBUTE} = "INCOMPLETE"')
            found = {each.id async for each in incomplete if each.run_id != self._replaced.get(each.id)}
            if found >= named:
                break
            await asyncio.sleep(0.2)
        self._figures.not_listed = sorted(named ^ found)

    async def _replay(self) -> None:
        plugin = SagaPlugin(classify=True, search_attribute=ATTRIBUTE)
        replayer = Replayer(workflows=WORKFLOWS, plugins=[plugin], workflow_runner=runner(slow=False))
        async with replayer.workflow_replay_iterator(self._histories()) as results:
            async for result in results:
                if result.replay_failure is not None:
                    kept = ROOT / "build" / "storm" / f"{result.history.workflow_id}.json"
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(result.history.to_json())
                    self._figures.not_replayed.append(f"{result.history.workflow_id}: {result.replay_failure!r}")

    async def _histories(self) -> AsyncIterator[WorkflowHistory]:
        for id, handle in self._handles.items():
            history = await insist(handle.fetch_history)
            names = {event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events}
            workers = {event.workflow_task_completed_event_attributes.identity for event in history.events}
            self._figures.patched += any(
                PATCH in str(event.marker_recorded_event_attributes) for event in history.events
            )
            self._figures.on_both += {"previous", "current"} <= {each.partition(" ")[0] for each in workers}
            faults = [
                name
                for name in names - {""}
                if (kind := fault_of(self._options.seed, id, name).kind) != "none"
                and not (self._options.by_hand and kind == "refused" and name in UNDOS)
            ]
            self._figures.faults += len(faults)
            yield history
        for id, run_id in self._replaced.items():
            yield await insist(self._client.get_workflow_handle(id, run_id=run_id).fetch_history)

    def _judge(self) -> None:
        figures = self._figures

        def of(kind: str) -> dict[str, End]:
            return {id: end for id, end in self._ends.items() if id.startswith(kind) and id not in self._replaced}

        total = len(_ACCOUNTS) * _BALANCE
        verdicts: list[Verdict] = [judge_transfers(self._bank, of("transfer"), total)]
        replaced = judge_transfers(self._bank, {id: self._ends[id] for id in self._replaced if id in self._ends}, total)
        figures.reset_lost += replaced.lost
        figures.doubled += replaced.doubled
        if not figures.stuck:  # the shelf is judged as a whole
            verdicts.append(judge_orders(self._store, of("order"), _STOCK))
        for verdict in verdicts:
            figures.lost += verdict.lost
            figures.doubled += verdict.doubled


def _end_of(result: Any) -> End:
    if isinstance(result, ApplicationError) and result.type == "CompensationError":
        steps = result.details[0]["steps"]
        return End(False, frozenset(step["name"] for step in steps if step["undo_state"] in ("FAILED", "GIVEN_UP")))
    if isinstance(result, TransferResult):
        return End(result.status is TransferStatus.COMPLETED)
    if isinstance(result, OrderState):
        return End(result.status is OrderStatus.SHIPPED)
    return End(result is None)


async def _unless_closed(call: Callable[[], Awaitable[None]]) -> None:
    """Make a call that may come too late."""
    try:
        await insist(call)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


class _running:  # noqa: N801 - a context manager
    """Runs something meanwhile."""

    def __init__(self, call: Coroutine[Any, Any, None]) -> None:
        self._call = call

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._call)

    async def __aexit__(self, *_: object) -> None:
        if self._task.done():
            self._task.result()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@contextmanager
def _ledger(options: Options, directory: Path) -> Any:
    if options.database == "sqlite":
        yield str(directory / "bank.sqlite3")
        return
    given = os.environ.get("DATABASE_URL")
    with nullcontext(given) if given else postgres() as url, schema_on(url) as schema:
        yield schema


def storm(options: Options, tell: Callable[[str], None] | None = None, directory: Path | None = None) -> Figures:
    """Make a storm; return its figures."""
    place: Any = (
        tempfile.TemporaryDirectory(prefix="temporal-saga-storm-") if directory is None else nullcontext(directory)
    )
    with place as made, _ledger(options, Path(made)) as ledger:
        figures = asyncio.run(Storm(options, Path(made), ledger).run())
    if tell is not None:
        for line in figures.wrong:
            tell(line)
        tell(str(figures))
    return figures
