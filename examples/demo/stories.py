"""The seven stories. Each happens twice at the same time: to the saga and to the textbook."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from examples.demo.hazards import ClosedBooks, OrderWithBug, PromptWarehouse, SlowCharge, TextbookOrderWithBug
from examples.demo.stage import MoneySide, OrderSide, Side, Stage, until
from examples.demo.verdict import Books

Say = Callable[[str], None]
Ending = tuple[Books, Books]


@dataclass(frozen=True)
class Story:
    """A story.

    Attributes:
        title: What it is about.
        tell: Lets it happen, says so, and returns the books of the saga and of the textbook.
        hazard: Whether it has one of the four hazards that the textbook does not survive.
        lesson: Why it ends as it does.
    """

    title: str
    tell: Callable[[Stage, Say], Awaitable[Ending]]
    hazard: bool
    lesson: str


async def succeeds(stage: Stage, say: Say) -> Ending:
    """Nothing goes wrong."""
    sides = saga, textbook = MoneySide(stage, 1, "saga"), MoneySide(stage, 1, "textbook")
    say("Alice sends bob 100.00 EUR.")
    for side in sides:
        await side.enter()
        await side.order()
    return await _books(saga, textbook, done=True)


async def refused(stage: Stage, say: Say) -> Ending:
    """The second step fails."""
    sides = saga, textbook = MoneySide(stage, 2, "saga"), MoneySide(stage, 2, "textbook")
    say("Alice sends bob 100.00 EUR. They are withdrawn, but bob's account is frozen.")
    for side in sides:
        side.ledger.freeze("bob")
        await side.enter()
        await side.order()
    return await _books(saga, textbook, done=False)


async def cancelled(stage: Stage, say: Say) -> Ending:
    """A cancel in a wait."""
    sides = saga, textbook = MoneySide(stage, 3, "saga"), MoneySide(stage, 3, "textbook")
    say("Alice sends bob 100.00 EUR. They are withdrawn and wait for a review.")
    for side in sides:
        await side.enter()
        await side.order(review=True)
    for side in sides:
        await side.seen("TIMER_STARTED")
    say("The workflow is cancelled while it waits.")
    for side in sides:
        await side.handle.cancel()
    return await _books(saga, textbook, done=False)


async def killed(stage: Stage, say: Say) -> Ending:
    """The worker dies between a step and its undo."""
    sides = saga, textbook = MoneySide(stage, 4, "saga"), MoneySide(stage, 4, "textbook")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.demo.worker", str(stage.folder), stage.run, "4"), env=_environment(stage)
    )
    try:
        say(f"Alice sends bob 100.00 EUR. They are withdrawn by a worker, process {process.pid}.")
        for side in sides:
            await side.order(review=True)
        for side in sides:
            await side.seen("TIMER_STARTED")
    finally:
        process.kill()
    say(f"That is killed with SIGKILL (exit code {await process.wait()}).")
    say("The review rejects the transfer, and another worker takes over.")
    for side in sides:
        await side.enter()
        await side.reject()
    return await _books(saga, textbook, done=False)


async def late_charge(stage: Stage, say: Say) -> Ending:
    """A parallel step succeeds after its sibling has failed."""
    saga = OrderSide(stage, 5, "saga", SlowCharge)
    textbook = OrderSide(stage, 5, "textbook", SlowCharge)
    say("Ann orders a teapot. Her card is charged while the stock is looked at.")
    for side in (saga, textbook):
        side.store.add_product("teapot", price=24_90, on_hand=0)
        await side.enter()
        await side.order()
    for side in (saga, textbook):
        await side.seen("ACTIVITY_TASK_FAILED")
    say("There is none left, and the charge, still in flight, arrives after that.")
    return await _let_through(saga, textbook)


async def cancelled_again(stage: Stage, say: Say) -> Ending:
    """A cancel while the undos run."""
    saga = MoneySide(stage, 6, "saga", ClosedBooks)
    textbook = MoneySide(stage, 6, "textbook", ClosedBooks)
    say("Alice sends bob 100.00 EUR. They arrive, but cannot be recorded: two steps to undo.")
    for side in (saga, textbook):
        await side.enter()
        await side.order()
    for side in (saga, textbook):
        await until(side.gate.reached.is_set, f"{side.id} reverses the deposit")
    say("The workflow is cancelled while the first of them is being undone.")
    for side in (saga, textbook):
        await side.handle.cancel()
    await saga.seen("WORKFLOW_EXECUTION_CANCEL_REQUESTED", "WORKFLOW_TASK_COMPLETED")
    return await _let_through(saga, textbook)


async def bug(stage: Stage, say: Say) -> Ending:
    """A TypeError, then a fixed deployment."""
    saga = OrderSide(stage, 7, "saga", PromptWarehouse)
    textbook = OrderSide(stage, 7, "textbook", PromptWarehouse)
    sides = saga, textbook
    say("Ann orders a teapot and pays 24.90 EUR. The parcel leaves.")
    async with saga.worker(OrderWithBug), textbook.worker(TextbookOrderWithBug):
        for side in sides:
            await side.order()
        for side in sides:
            await until(side.parcel_has_left, f"{side.id} sends the parcel")
        say("The code that is to handle this has a bug and raises a TypeError.")
        for side in sides:
            await side.handle.signal("shipment_ready", "TRACK-1")
        for side in sides:
            await side.seen("WORKFLOW_TASK_FAILED")
    say("The worker is stopped, and one with the fixed code takes over (after a backoff).")
    for side in sides:
        await side.enter()
    await saga.end()
    return await saga.books(done=True), await textbook.books(done=True)


STORIES: Sequence[Story] = (
    Story("A transfer that succeeds", succeeds, hazard=False, lesson="Nothing was to be undone: both are right."),
    Story(
        "A transfer whose deposit is refused",
        refused,
        hazard=False,
        lesson="An activity that fails is what the textbook is made for: both are right.",
    ),
    Story(
        "A transfer that is cancelled in the middle",
        cancelled,
        hazard=True,
        lesson="A cancel in a wait is a CancelledError, which `except Exception` does not catch: "
        "the textbook undoes nothing.",
    ),
    Story(
        "A transfer whose worker is killed between a step and its undo",
        killed,
        hazard=False,
        lesson="That is Temporal's doing: a workflow outlives its worker. Both are right.",
    ),
    Story(
        "An order that fails on stock while the charge is in flight",
        late_charge,
        hazard=True,
        lesson="The textbook refunds at once, when there is nothing to refund yet. The saga waits "
        "for what is in flight, then refunds.",
    ),
    Story(
        "A transfer that is cancelled while its undos run",
        cancelled_again,
        hazard=True,
        lesson="The cancel ends the textbook's loop, and the rest of its undos are lost. Nothing interrupts a saga's.",
    ),
    Story(
        "An order whose code has a bug",
        bug,
        hazard=True,
        lesson="To the textbook a TypeError is a failure like any other: it refunds goods that "
        "have left. To the saga it is a bug to be fixed: nothing is undone, the fixed code goes on.",
    ),
)


async def _books(saga: Side, textbook: Side, *, done: bool) -> Ending:
    """Waits for both ends."""
    await saga.end()
    await textbook.end()
    return await saga.books(done=done), await textbook.books(done=done)


async def _let_through(saga: Side, textbook: Side) -> Ending:
    """Waits for the textbook's end, opens the gates, and waits until all has come to rest."""
    # The textbook ends with its activity still at the gate. The saga waits for its own.
    await textbook.end()
    for side in (saga, textbook):
        side.gate.opened.set()
        await until(side.gate.passed.is_set, f"{side.id} goes on")
    return await _books(saga, textbook, done=False)


def _environment(stage: Stage) -> dict[str, str]:
    """The environment of a process that is to find the same server."""
    if os.environ.get("TEMPORAL_ADDRESS"):
        return dict(os.environ)
    # The server is ours: what the user has set for another one does not apply.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    address = stage.client.service_client.config.target_host
    return {**kept, "TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": os.devnull}
