"""The rules of the contract on the real server; each test's name carries its rule's number.

Rule 9 (determinism) is in every test of this directory that uses `runs`: the shared worker has no
cache, so that each workflow task replays the run from its beginning, and when the test ends its
histories are replayed once more, sandboxed, on a worker that starts with the whole of them. Two
parts of rules are proven in process alone (`tests/rules/`), because a server adds nothing to them:

* rule 5, cancels of scopes (`asyncio.timeout`, `TaskGroup`, again and again): they are Python's
  own, and no event of a history shows them;
* rule 10, the time that the library costs: on a server the noise is larger than the difference
  (`make bench`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from .support import Run, Runs, causes, eventually, make_worker
from .workflows import (
    Backoff,
    CancelsAtOnce,
    Cards,
    Carriers,
    CatchesTheError,
    Groups,
    OpensInHandler,
    Outlives,
    OwnQuery,
    Parallel,
    ParallelByHand,
    Patient,
    Plan,
    Queues,
    Registers,
    Reverts,
    Sequence,
    SequenceByHand,
    Signalled,
    TwoThenOne,
    WaitsFor,
)
from .world import ACTIVITIES, Effect

BOOM = "ApplicationError Boom"
FAILED_STEP = ["ActivityError", BOOM]


async def cancelled(run: Run) -> None:
    """Check that the run ended Cancelled, with nothing left standing."""
    assert isinstance(await run.failure(), CancelledError)
    assert await run.status() is WorkflowExecutionStatus.CANCELED
    assert run.book.stands == []


# --- 1. Order


async def test_rule_01_newest_first(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b"), Effect("c")], "raise"))
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).undone == ["c", "b", "a"]
    assert run.book.stands == []


async def test_rule_01_by_when_they_began_not_when_they_ended(runs: Runs) -> None:
    run = await runs.start(Parallel.run, Plan([Effect("slow", "gate"), Effect("quick")], "raise"))
    await run.event("ACTIVITY_TASK_COMPLETED")
    run.open("slow:do")
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).undone == ["quick", "slow"]


async def test_rule_01_concurrent_as_the_steps_overlapped(runs: Runs) -> None:
    effects = [Effect(name, undo="gate") for name in ("first", "second", "after")]
    run = await runs.start(TwoThenOne.run, Plan(effects, order="concurrent"))
    await run.reached("after:undo")
    assert (await run.history()).undone == ["after"]
    run.open("after:undo")
    await run.reached("first:undo", "second:undo")
    run.open("first:undo", "second:undo")
    assert causes(await run.failure()) == [BOOM]
    assert run.book.most == 2
    assert run.book.stands == []


# --- 2. Once


async def test_rule_02_scheduled_once_and_retried_until_it_succeeds(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a", undo="flaky")], "raise"))
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).steps == ["a:do", "a:undo"]
    assert run.book.began == ["a:do", "a:undo", "a:undo"]
    assert run.book.stands == []


async def test_rule_02_one_that_fails_is_reported_and_the_others_run(runs: Runs) -> None:
    effects = [Effect("a"), Effect("b", undo="boom"), Effect("c")]
    run = await runs.start(Sequence.run, Plan(effects, "raise"))
    failure = await run.failure()
    assert causes(failure) == ["ApplicationError CompensationError", BOOM]
    assert (await run.history()).undone == ["c", "b", "a"]
    assert run.book.stands == ["b"]
    (report,) = await run.report()
    assert [step["undo_state"] for step in report["steps"]] == ["DONE", "FAILED", "DONE"]


# --- 3. Outcome


@pytest.mark.parametrize(
    ("how", "undone"),
    [
        ("declined", ["a"]),  # the mark, of the first attempt
        ("declined late", ["b", "a"]),  # an earlier attempt may have taken effect
        ("impostor", ["b", "a"]),  # an error of the same name without the mark
        ("lost", ["b", "a"]),
        ("boom", ["b", "a"]),  # an error that proves nothing
    ],
)
async def test_rule_03_what_a_failure_proves(runs: Runs, how: str, undone: list[str]) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", how)]))
    await run.failure()
    assert (await run.history()).undone == undone
    assert run.book.stands == []


async def test_rule_03_a_timeout_is_unknown(runs: Runs) -> None:
    late = Effect("late", "deaf", seconds=0.3, attempts=1)
    run = await runs.start(Sequence.run, Plan([late]))
    assert causes(await run.failure()) == ["ActivityError", "TimeoutError"]
    assert (await run.history()).undone == ["late"]
    (report,) = await run.report()
    assert report["steps"][0]["state"] == "UNKNOWN"


async def test_rule_03_never_started_is_proof(runs: Runs) -> None:
    run = await runs.start(Queues.run, Plan([Effect("a"), Effect("nowhere")]))
    assert causes(await run.failure()) == ["ActivityError", "TimeoutError"]
    assert (await run.history()).undone == ["a"]
    (report,) = await run.report()
    assert [step["state"] for step in report["steps"]] == ["APPLIED", "NOT_APPLIED"]


async def test_rule_03_cancelled_before_it_left_the_worker_is_proof(runs: Runs) -> None:
    run = await runs.start(CancelsAtOnce.run, Plan([Effect("a"), Effect("never")]))
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).steps == ["a:do", "a:undo"]


async def test_rule_03_cancelled_in_backoff_is_unknown(runs: Runs) -> None:
    # The server shows `started_event_id` 0 for it, although its first attempt ran.
    effects = [Effect("a", "declined late", attempts=9), Effect("b", "gate")]
    run = await runs.start(Backoff.run, Plan(effects))
    await run.reached("a:do", "b:do")
    await eventually(lambda: run.book.stands == ["a"])
    run.open("b:do")
    await run.handle.cancel()
    await cancelled(run)
    assert (await run.history()).undone == ["b", "a"]


# --- 4. Which errors unwind


@pytest.mark.parametrize(("then", "event"), [("sleep", "TIMER_STARTED"), ("wait", "ACTIVITY_TASK_COMPLETED")])
async def test_rule_04_a_cancel_in_a_sleep_or_a_wait(runs: Runs, then: Any, event: str) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a")], then))
    await run.event(event)
    await run.handle.cancel()
    await cancelled(run)
    assert (await run.history()).undone == ["a"]


async def test_rule_04_a_cancel_in_a_step(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", "gate"), Effect("c")]))
    await run.reached("b:do")
    await run.handle.cancel()
    await cancelled(run)
    assert (await run.history()).steps == ["a:do", "b:do", "b:undo", "a:undo"]


async def test_rule_04_a_cancel_before_the_first_await(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a")]), queue=(queue := f"q-{uuid4()}"))
    await run.handle.cancel()
    async with runs.worker(queue):
        await cancelled(run)
    assert (await run.history()).steps == []


async def test_rule_04_a_bug_fails_the_task_and_undoes_nothing(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a")], "bug"))
    assert await run.task_failure() == "a bug"
    assert (await run.history()).steps == ["a:do"]
    assert await run.status() is WorkflowExecutionStatus.RUNNING
    assert run.book.stands == ["a"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup is new in 3.11")
@pytest.mark.parametrize("inside", [True, False])
async def test_rule_04_a_group_counts_as_its_leaves(runs: Runs, inside: bool) -> None:
    run = await runs.start(Groups.run, Plan([Effect("a"), Effect("b", "boom")]), inside)
    assert causes(await run.failure()) == FAILED_STEP
    assert run.book.stands == []
    assert (await run.history()).undone == ["b", "a"]


async def test_rule_04_continue_as_new_would_drop_the_stack(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a")], "continue as new"))
    assert "saga.detach()" in await run.task_failure()
    assert await run.status() is WorkflowExecutionStatus.RUNNING


# --- 5. Cancellation


async def test_rule_05_nothing_interrupts_an_unwind(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", undo="gate")], "raise"))
    await run.reached("b:undo")
    await run.handle.cancel()
    await run.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED")
    await run.handle.cancel()
    run.open("b:undo")
    # The cause was the error: the run ends Failed.
    assert causes(await run.failure()) == [BOOM]
    history = await run.history()
    assert history.undone == ["b", "a"]
    assert history.of("ACTIVITY_TASK_CANCEL_REQUESTED") == []
    assert run.book.stands == []


async def test_rule_05_cancelled_twice(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", undo="gate")], "sleep"))
    await run.event("TIMER_STARTED")
    await run.handle.cancel()
    await run.reached("b:undo")
    await run.handle.cancel()
    run.open("b:undo")
    await cancelled(run)
    assert (await run.history()).undone == ["b", "a"]


async def test_rule_05_a_cancel_kept_meets_the_next_await(runs: Runs) -> None:
    run = await runs.start(CatchesTheError.run, Plan([Effect("a", undo="gate")], "raise"))
    await run.reached("a:undo")
    await run.handle.cancel()
    await run.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED")
    run.open("a:undo")
    await cancelled(run)
    assert "after" not in (await run.history()).ids


async def test_rule_05_a_step_that_completes_although_cancelled(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a", "stubborn")]))
    await run.reached("a:do")
    await run.handle.cancel()
    await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
    run.open("a:do")
    await cancelled(run)
    history = await run.history()
    assert history.of("ACTIVITY_TASK_CANCELED") == []
    assert history.undone == ["a"]
    (report,) = await run.report()
    assert report["steps"][0]["state"] == "APPLIED"


async def test_rule_05_a_savepoint_raises_the_cancel_it_kept(runs: Runs) -> None:
    effects = [Effect("a"), Effect("x", "boom", undo="gate"), Effect("y")]
    run = await runs.start(Carriers.run, Plan(effects))
    await run.reached("x:undo")
    await run.handle.cancel()
    await run.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED")
    run.open("x:undo", "pickup-x:undo")
    await cancelled(run)
    assert (await run.history()).undone == ["x", "pickup-x", "a"]


# --- 6. Drain first


async def test_rule_06_nothing_is_undone_while_a_step_is_in_flight(runs: Runs) -> None:
    run = await runs.start(Parallel.run, Plan([Effect("a", "stubborn"), Effect("b", "boom")]))
    await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
    assert (await run.history()).undone == []
    run.open("a:do")
    assert causes(await run.failure()) == FAILED_STEP
    assert (await run.history()).undone == ["b", "a"]
    assert run.book.stands == []


async def test_rule_06_an_update_whose_step_is_drained_is_held(cached_runs: Runs) -> None:
    run = await cached_runs.start(Signalled.run, Plan([Effect("a", undo="gate")], "raise"))
    update = asyncio.create_task(run.handle.execute_update(Signalled.add, Effect("b", "stubborn")))
    await run.reached("b:do")
    await run.handle.signal(Signalled.end)
    await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
    # A second one comes while it unwinds: it does not start.
    second = asyncio.create_task(run.handle.execute_update(Signalled.add, Effect("c")))
    await run.event("WORKFLOW_EXECUTION_UPDATE_ACCEPTED", 2)
    run.open("b:do")
    await run.reached("a:undo")
    assert not update.done()
    assert not second.done()
    run.open("a:undo")
    assert causes(await run.failure()) == [BOOM]
    for each in (update, second):
        with pytest.raises(WorkflowUpdateFailedError):
            await each
    assert (await run.history()).steps == ["a:do", "b:do", "b:undo", "a:undo"]
    assert run.book.stands == []


async def test_rule_06_registered_during_the_unwind_and_undone(runs: Runs) -> None:
    run = await runs.start(Registers.run)
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).undone == ["newest", "late", "oldest"]


async def test_rule_06_a_good_end_waits_for_its_steps(runs: Runs) -> None:
    run = await runs.start(Outlives.run, Plan([Effect("a", "gate")]))
    await run.reached("a:do")
    run.open("a:do")
    assert await run.handle.result() == "done, 1 done"
    assert run.book.stands == ["a"]


async def test_rule_06_wait_for_lets_the_step_end_first(runs: Runs) -> None:
    run = await runs.start(WaitsFor.run, Plan([Effect("a"), Effect("b", "stubborn")]))
    await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
    run.open("b:do")
    assert await run.handle.result() == "timed out"
    assert (await run.history()).undone == ["b", "a"]
    assert run.book.stands == []


# --- 7. Nothing is left behind


@pytest.mark.parametrize("then", ["return", "pivot"])
async def test_rule_07_a_swallowed_failure_is_undone(runs: Runs, then: Any) -> None:
    run = await runs.start(Cards.run, Plan([Effect("card-1", "lost"), Effect("card-2")], then))
    assert await run.handle.result() == "done"
    assert (await run.history()).steps == ["card-1:do", "card-2:do", "card-1:undo"]
    assert run.book.stands == ["card-2"]


async def test_rule_07_swallowed_by_a_gather(runs: Runs) -> None:
    effects = [Effect("a"), Effect("b", "lost"), Effect("c", "declined")]
    run = await runs.start(Patient.run, Plan(effects))
    assert await run.handle.result() == 2
    assert (await run.history()).undone == ["b"]
    assert run.book.stands == ["a"]


async def test_rule_07_an_undo_that_fails_then_ends_the_scope_badly(runs: Runs) -> None:
    run = await runs.start(Cards.run, Plan([Effect("card-1", "lost", undo="boom"), Effect("b")]))
    failure = await run.failure()
    assert causes(failure) == ["ApplicationError CompensationError", "ActivityError", "ApplicationError Lost"]


# --- 8. Errors tell the truth


async def test_rule_08_the_original_goes_on(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", "boom")]))
    failure = await run.failure()
    assert causes(failure) == FAILED_STEP
    assert await run.status() is WorkflowExecutionStatus.FAILED


async def test_rule_08_an_incomplete_unwind(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a", undo="boom"), Effect("b", "boom")]))
    failure = await run.failure()
    assert causes(failure) == ["ApplicationError CompensationError", *FAILED_STEP]
    assert isinstance(failure, ApplicationError)
    assert failure.non_retryable
    (report,) = failure.details
    assert report["state"] == "INCOMPLETE"
    assert [step["undo_state"] for step in report["steps"]] == ["FAILED", "DONE"]


async def test_rule_08_a_late_update_is_rejected_and_the_run_goes_on(cached_runs: Runs) -> None:
    run = await cached_runs.start(Signalled.run, Plan([Effect("a")]))
    await run.handle.signal(Signalled.end)
    await eventually(lambda: state_is(run, "COMPLETED"))
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await run.handle.execute_update(Signalled.add, Effect("late"))
    assert causes(refused.value.cause) == ["ApplicationError SagaClosed"]
    await run.handle.signal(Signalled.end)
    assert await run.handle.result() == "done"
    assert (await run.history()).of("WORKFLOW_TASK_FAILED") == []


async def test_rule_08_misuse_fails_the_task_and_names_the_fix(runs: Runs) -> None:
    run = await runs.start(OwnQuery.run)
    assert "rename the handler" in await run.task_failure()
    assert await run.status() is WorkflowExecutionStatus.RUNNING


# --- 9. Determinism: see above


@pytest.mark.parametrize("cached", [0, 1000])
async def test_rule_09_the_same_commands_with_and_without_a_cache(runs: Runs, cached: int) -> None:
    effects = [Effect("a"), Effect("b"), Effect("c", "boom")]
    sandbox = SandboxedWorkflowRunner()  # nothing but the library is passed through
    async with runs.worker(workflows=[Parallel], workflow_runner=sandbox, max_cached_workflows=cached) as queue:
        run = await runs.start(Parallel.run, Plan(effects, order="concurrent"), queue=queue)
        assert causes(await run.failure()) == FAILED_STEP
    assert sorted((await run.history()).undone) == ["a", "b", "c"]
    assert run.book.stands == []


# --- 10. Free when nothing fails


@pytest.mark.parametrize(
    ("ours", "hand"),
    [(Sequence.run, SequenceByHand.run), (Parallel.run, ParallelByHand.run)],
    ids=["sequence", "parallel"],
)
async def test_rule_10_no_event_more_than_by_hand(runs: Runs, ours: Any, hand: Any) -> None:
    histories = []
    for workflow in (ours, hand):
        run = await runs.start(workflow, Plan([Effect(name, "gate") for name in "abcde"]))
        for number, name in enumerate("abcde", 1):  # so that the answers come in one order
            await run.reached(f"{name}:do")
            await run.event("WORKFLOW_TASK_COMPLETED", number)
            run.open(f"{name}:do")
            await run.event("ACTIVITY_TASK_COMPLETED", number)
        assert await run.handle.result() == "done"
        histories.append(await run.history())
    of_ours, by_hand = histories
    assert of_ours.types == by_hand.types
    for one, other in zip(of_ours.of("ACTIVITY_TASK_SCHEDULED"), by_hand.of("ACTIVITY_TASK_SCHEDULED"), strict=True):
        mine = one.activity_task_scheduled_event_attributes
        theirs = other.activity_task_scheduled_event_attributes
        mine.activity_id = theirs.activity_id
        mine.workflow_task_completed_event_id = theirs.workflow_task_completed_event_id
        assert mine == theirs


async def test_rule_10_a_deadline_adds_its_timer(runs: Runs) -> None:
    five = [Effect(name) for name in "abcde"]
    types = []
    for plan in (Plan(five, deadline=60), Plan(five)):
        run = await runs.start(Sequence.run, plan)
        await run.handle.result()
        types.append((await run.history()).types)
    with_it, without = types
    assert [name for name in with_it if not name.startswith("TIMER_")] == without
    assert [name for name in with_it if name.startswith("TIMER_")] == ["TIMER_STARTED", "TIMER_CANCELED"]


# --- 11. Nothing leaks

SECRET = "4000-1234-5678-9010"


@activity.defn
async def whisper(secret: str) -> str:
    """Fails with the secret in its message and its details, and once returns it."""
    if activity.info().activity_id.startswith("b:do"):
        raise ApplicationError(f"refused {secret}", secret, type="Refused", non_retryable=True)
    raise ApplicationError(f"cannot take back {secret}", secret, non_retryable=True)


async def test_rule_11_names_keys_and_states_alone(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    async with runs.worker(activities=[*ACTIVITIES, whisper]) as queue:
        with caplog.at_level(logging.INFO, logger="temporalio.workflow"):
            run = await runs.start(Reverts.run, SECRET, queue=queue)
            await run.reached("a:undo")
            during = await run.report()
            details = await run.handle.query("__temporal_workflow_metadata")
            run.open("a:undo")
            failure = await run.failure()
            after = await run.report()
    assert isinstance(failure, ApplicationError)
    assert [step["undo_state"] for step in during[0]["steps"]] == ["RUNNING", "FAILED"]
    assert "**b** (UNKNOWN)" in str(details)
    assert "whisper: **FAILED**" in str(details)
    summaries = [
        event.user_metadata.summary.data.decode() for event in (await run.history()).of("ACTIVITY_TASK_SCHEDULED")
    ]
    assert summaries == ["", "", '"undo b"', '"undo a"']
    records = [record for record in caplog.records if "aga" in record.getMessage()]
    # Its start, and an ERROR in place of "has unwound".
    assert [record.levelno for record in records] == [logging.INFO, logging.ERROR]
    logged = [record.getMessage() for record in records]
    assert "'b'" in logged[-1]
    shown = [during, after, details, summaries, failure.message, failure.details, logged]
    assert SECRET not in str(shown)
    assert SECRET not in "".join(caplog.handler.format(record) for record in records)


# --- 12. Past the scope


async def test_rule_12_a_failing_signal_handler(runs: Runs) -> None:
    run = await runs.start(Signalled.run, Plan([Effect("a")]))
    await run.event("ACTIVITY_TASK_COMPLETED")
    await run.handle.signal(Signalled.break_down)
    assert causes(await run.failure()) == ["ApplicationError Handler"]
    assert (await run.history()).undone == ["a"]
    assert run.book.stands == []


async def test_rule_12_a_step_that_fails_in_a_signal_handler(runs: Runs) -> None:
    run = await runs.start(Signalled.run, Plan([Effect("a")]))
    await run.event("ACTIVITY_TASK_COMPLETED")
    await run.handle.signal(Signalled.break_in_a_step, Effect("b", "boom"))
    assert causes(await run.failure()) == FAILED_STEP
    assert (await run.history()).undone == ["b", "a"]
    assert run.book.stands == []


@pytest.mark.parametrize("how", ["returns", "is cancelled"])
async def test_rule_12_a_saga_in_an_update_when_main(cached_runs: Runs, how: str) -> None:
    run = await cached_runs.start(OpensInHandler.run)
    update = asyncio.create_task(run.handle.execute_update(OpensInHandler.transfer, Plan([Effect("a")], "sleep")))
    await run.event("TIMER_STARTED")
    if how == "returns":
        await run.handle.signal(OpensInHandler.end)
        assert await run.handle.result() == "main is done"
        assert run.book.stands == []
    else:
        await run.handle.cancel()
        await cancelled(run)
    with pytest.raises(WorkflowUpdateFailedError):
        await update
    assert (await run.history()).undone == ["a"]


@pytest.mark.parametrize("how", ["returns", "is cancelled"])
async def test_rule_12_a_saga_in_a_signal_handler_when_main(runs: Runs, how: str) -> None:
    run = await runs.start(OpensInHandler.run)
    await run.handle.signal(OpensInHandler.transfer_unseen, Plan([Effect("a")], "sleep"))
    await run.event("TIMER_STARTED")
    if how == "returns":
        await run.handle.signal(OpensInHandler.end)
        assert await run.handle.result() == "main is done"
        assert run.book.stands == []
    else:
        await run.handle.cancel()
        await cancelled(run)
    assert (await run.history()).undone == ["a"]


# The SDK warns of an update that is cut short, too.
@pytest.mark.filterwarnings("ignore:.*TMPRL1102")
async def test_rule_12_without_the_plugin_a_warning_names_it(
    env: WorkflowEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    # And it shows why: what the handler's saga did stands.
    async with make_worker(env.client, queue := f"q-{uuid4()}", workflows=[OpensInHandler], activities=ACTIVITIES):
        run = Run(await env.client.start_workflow(OpensInHandler.run, id=f"w-{uuid4()}", task_queue=queue))
        update = asyncio.create_task(run.handle.execute_update(OpensInHandler.transfer, Plan([Effect("a")], "sleep")))
        await run.event("TIMER_STARTED")
        await run.handle.cancel()
        await run.failure()
        with pytest.raises(WorkflowUpdateFailedError):
            await update
    assert "SagaPlugin" in caplog.text
    assert run.book.stands == ["a"]


# --- helpers


async def state_is(run: Run, state: str) -> bool:
    reports = await run.report()
    return bool(reports) and reports[0]["state"] == state
