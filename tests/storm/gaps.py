"""A kill between any two events of the life of what is parked changes nothing of its outcome.

A transfer's deposit (or the undo of its deposit) is refused for good, parks, is tried again on the operator's word and
refused again, parks again, is healed and tried once more. First without a kill, to see its events and its outcome; then
once for each event after which time passes, with a kill of the worker, of the server, or of both.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.worker import Replayer

from examples.money_transfer.ledger import Ledger
from examples.money_transfer.models import Transfer
from temporal_saga.plugin import SagaPlugin

from .faults import PAUSE, healed
from .processes import ATTRIBUTE, Server, Setting, Workers, insist
from .worker import QUEUE, WORKFLOWS, runner
from .workflows import Job, ParkingTransfer

SCENARIOS = {"step": "deposit", "undo": "reverse_deposit"}
VICTIMS = ("worker", "server", "both")


@dataclass(frozen=True)
class Gap:
    """One kill.

    Attributes:
        scenario: What is parked.
        victim: What is killed.
        at: After how many events.
        after: How many seconds after that event.
    """

    scenario: str
    victim: str
    at: int
    after: float


@dataclass(frozen=True)
class Outcome:
    """What came of a transfer: how it ended, its entries in the ledger, and what the report says of its steps."""

    end: str
    entries: tuple[tuple[str, int], ...]
    steps: tuple[tuple[str, str, str | None, str | None], ...]


class Bed:
    """A server, a worker and a ledger, for one gap after the other."""

    def __init__(self, directory: Path, scenario: str) -> None:
        (directory / "healed").mkdir()
        self._refused = SCENARIOS[scenario]
        self._directory = str(directory)
        self._scenario = scenario
        self._ledger = Ledger(directory / "bank.sqlite3")
        for name in ("alice", "bob"):
            self._ledger.open_account(name, "EUR", 1_000_000_00)
        self._server = Server(directory)
        self._server.start()
        self._setting = Setting(
            self._server.address,
            str(directory / "bank.sqlite3"),
            self._directory,
            refused=(self._refused,),
            pauses=True,
        )
        self._workers = Workers(self._setting, 1)
        self._client: Client

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Bed]:
        try:
            self._client = await self._server.connect()
            yield self
        finally:
            self._workers.close()
            self._server.kill()

    async def run(self, id: str, gap: Gap | None = None) -> tuple[Outcome, WorkflowHistory]:
        """Let one transfer live, with a kill."""
        job = Job(Transfer(id, "alice", "bob", 100, "EUR"), fails=self._scenario == "undo")
        handle = await self._client.start_workflow(
            ParkingTransfer.run, job, id=id, task_queue=QUEUE, task_timeout=timedelta(seconds=2)
        )
        killing = asyncio.create_task(self._kill(handle, gap)) if gap else None
        await self._operate(handle)
        try:
            await insist(lambda: asyncio.wait_for(handle.result(), 60))
            end = "completed"
        except WorkflowFailureError as error:
            end = str(getattr(error.cause, "type", error.cause))
        if killing is not None:
            await killing
        history = await insist(handle.fetch_history)
        (report,) = await insist(lambda: handle.query("saga_report"))
        steps = tuple((step["name"], step["state"], step["undo_state"], step["who"]) for step in report["steps"])
        return Outcome(end, self._entries(id), steps), history

    def _entries(self, id: str) -> tuple[tuple[str, int], ...]:
        with self._ledger.transaction() as db:
            memos = [memo for (memo,) in db.execute("SELECT memo FROM entries")]
        return tuple(sorted(Counter(memo.split()[0] for memo in memos if memo.split()[1] == id).items()))

    async def _operate(self, handle: WorkflowHandle[Any, Any]) -> None:
        for time in (1, 2):
            key = await self._parked(handle, time)
            if time == 2:
                healed(self._directory, handle.id, self._refused).touch()
            arguments = [key, "retry", f"ann {time}", "because"]
            await insist(
                lambda arguments=arguments, time=time: handle.execute_update(  # type: ignore[misc]
                    "saga_resolve", args=arguments, id=f"decision-{time}"
                ),
                WorkflowUpdateRPCTimeoutOrCancelledError,
            )

    async def _parked(self, handle: WorkflowHandle[Any, Any], time: int) -> str:
        """Wait until it is parked for the nth time; return the key."""
        while True:
            history = await insist(handle.fetch_history)
            types = [event.event_type for event in history.events]
            if types.count(EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED) >= 2 * time - 1:
                break
            await asyncio.sleep(0.05)
        ids = [event.activity_task_scheduled_event_attributes.activity_id for event in history.events]
        return next(id for id in ids if id.startswith("deposit:")).rpartition(":")[2]

    async def _kill(self, handle: WorkflowHandle[Any, Any], gap: Gap) -> None:
        while len((await handle.fetch_history()).events) < gap.at:
            await asyncio.sleep(0.004)
        await asyncio.sleep(gap.after)
        if gap.victim != "server":
            self._workers.kill()
        if gap.victim != "worker":
            self._server.kill()
            self._server.start()
        if gap.victim != "server":
            self._workers.start()


BEGINS = {
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED: (0.0,),
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED: (0.0,),
    EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED: (0.0, 1.5 * PAUSE),  # written with its end: so it may run, or have run
    EventType.EVENT_TYPE_TIMER_FIRED: (0.0,),
}
"""The events with which the server begins a transaction, and how many seconds before them a kill may come."""


def gaps_of(scenario: str, history: WorkflowHistory) -> Iterator[Gap]:
    """The gaps in which time passes: the server writes the rest of the events together with the one before."""
    for at, next in enumerate(history.events[1:], 1):
        for victim in VICTIMS:
            for after in BEGINS.get(next.event_type, ()):
                yield Gap(scenario, victim, at, after)


Choose = Callable[[list[Gap]], list[Gap]]


async def try_gaps(directory: Path, scenario: str, choose: Choose, tell: Any = None) -> list[str]:
    """Try some of the gaps; return what went wrong in them."""
    wrong: list[str] = []
    plugin = SagaPlugin(classify=True, search_attribute=ATTRIBUTE)
    async with Bed(directory, scenario).open() as bed:
        expected, history = await bed.run(f"{scenario}-0")
        histories = [history]
        chosen = choose(list(gaps_of(scenario, history)))
        for number, gap in enumerate(chosen, 1):
            outcome, history = await bed.run(f"{scenario}-{number}", gap)
            histories.append(history)
            if outcome != expected:
                wrong.append(f"{gap}: {outcome}, expected {expected}")
            if tell is not None:
                event = EventType.Name(histories[0].events[gap.at - 1].event_type).removeprefix("EVENT_TYPE_")
                verdict = "as without" if outcome == expected else "DIFFERS"
                when = f"{gap.after:g} s after event {gap.at}, {event}"
                tell(f"{scenario} {number}/{len(chosen)}: {gap.victim} killed {when}: {verdict}")
        replayer = Replayer(workflows=WORKFLOWS, plugins=[plugin], workflow_runner=runner(slow=False))
        async with replayer.workflow_replay_iterator(_iterate(histories)) as results:
            wrong += [
                f"{result.history.workflow_id}: does not replay: {result.replay_failure!r}"
                async for result in results
                if result.replay_failure is not None
            ]
    return wrong


async def _iterate(histories: list[WorkflowHistory]) -> AsyncIterator[WorkflowHistory]:
    for history in histories:
        yield history
