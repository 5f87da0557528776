"""What a person is told of an unwind: the cause of its error (rule 8), and its lines in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, TimeoutType

from temporal_saga import Compensation, CompensationError, Saga
from tests.driver import Run, cancel, cancelled, completed, failed, timed_out
from tests.rules.workflows import DECLINED, REFUSED, do, end, flow, new_saga, shared, undone

pytestmark = pytest.mark.usefixtures("collected")

SECRET = "4242-4242"
BROKEN = shared(ApplicationError(f"broken {SECRET}", f"detail {SECRET}", type="Broken", non_retryable=True))
"""What a failed undo raises."""


# --- the cause of compensate()'s error ---


async def swallow(saga: Saga, name: str, how: str = "step") -> None:
    """Do a step that fails, and swallow its error."""
    try:
        if how == "child":
            await saga.execute_child_workflow(name, name, compensation=f"undo_{name}")
        elif how == "savepoint":
            async with saga.savepoint() as attempt:
                await do(attempt, name)
        elif how == "timeout":
            await asyncio.wait_for(do(saga, name, key="k"), 5)
        else:
            await do(saga, name)
    except (ActivityError, ChildWorkflowError, asyncio.TimeoutError):
        pass


def compensates(*swallowed: str, how: str = "step", around: bool = False) -> type[Any]:
    """Return a workflow that does `a`, swallows the failures of these steps, and then compensates."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            for name in swallowed:
                await swallow(saga, name, how)
            if around:
                try:
                    await do(saga, "last")
                except ActivityError:
                    await saga.compensate()
            else:
                await saga.compensate()

    return body


@pytest.mark.parametrize("error", [REFUSED, DECLINED], ids=["unknown", "proven without effect"])
@pytest.mark.parametrize("around", [True, False], ids=["in the except block", "behind it"])
def test_rule_08_the_cause_out_of_compensate_is_what_the_body_swallowed(around: bool, error: ApplicationError) -> None:
    code = compensates(around=True) if around else compensates("last")
    run = Run(code).autopilot({"last": error, "undo_a": BROKEN})
    assert end(run) == "CompensationError"
    cause = run.error.cause
    assert isinstance(cause, ActivityError)
    assert cause.activity_type == "last"
    assert isinstance(cause.cause, ApplicationError)
    assert cause.cause.type == error.type
    run.check()


@pytest.mark.parametrize("how", ["step", "savepoint", "child"])
def test_rule_08_of_several_it_is_the_newest(how: str) -> None:
    run = Run(compensates("b", "c", how=how)).autopilot(
        {"b:do": REFUSED, "c:do": ApplicationError("no", type="Newest"), "undo_a": BROKEN}
    )
    assert end(run) == "CompensationError"
    assert run.error.cause.cause.type == "Newest"
    run.check()


def test_rule_08_the_newest_is_what_failed_last_not_what_began_last() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.gather(do(saga, "slow"), do(saga, "quick"), return_exceptions=True)
            await saga.compensate()

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(failed("quick", ApplicationError("no", type="Quick")))
    run.activate(failed("slow", ApplicationError("no", type="Slow")))
    run.autopilot({"undo_a": BROKEN})
    assert run.error.cause.cause.type == "Slow"
    run.check()


def test_rule_08_a_step_that_a_timeout_cancelled_is_what_the_body_swallowed() -> None:
    run = Run(compensates("b", how="timeout")).start()
    run.activate(completed("a"))
    run.advance(run.timers[0].delay)
    run.activate(failed("b", ApplicationError("no", type="Late")))
    run.autopilot({"undo_a": BROKEN})
    assert end(run) == "CompensationError"
    assert run.error.cause is not None
    run.check()


def test_rule_08_with_nothing_swallowed_there_is_no_cause() -> None:
    """A rejected review is no exception."""
    run = Run(compensates()).autopilot({"undo_a": BROKEN})
    assert end(run) == "CompensationError"
    assert run.error.cause is None
    run.check()


def test_rule_08_a_complete_compensate_raises_nothing() -> None:
    run = Run(compensates("b")).autopilot({"b:do": REFUSED})
    assert end(run) == "None"
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


# --- the log ---


def choose(outcome: Any) -> Compensation:
    return Compensation("undo_b", [outcome.result, SECRET])


ENDINGS = ["a failure", "a cancel", "compensate()", "a savepoint", "a swallowed failure", "concurrent"]
"""How an unwind comes about."""


def unwinds(how: str) -> type[Any]:
    """Return a workflow that does `a` and `b`, then unwinds both."""

    @flow
    async def body() -> None:
        order: Any = "concurrent" if how == "concurrent" else "reverse"
        async with new_saga("order-7", order=order) as saga:
            if how == "a savepoint":
                async with saga.savepoint() as attempt:
                    await both(attempt)
                    raise ApplicationError(SECRET, SECRET)
            if how == "a swallowed failure":
                for name in "ab":
                    try:
                        await saga.execute_activity(name, SECRET, compensation=Compensation(f"undo_{name}", SECRET))
                    except ActivityError:
                        continue
                return
            await both(saga)
            if how == "a cancel":
                await asyncio.sleep(60)
            if how == "compensate()":
                await saga.compensate()
            else:
                raise ApplicationError(SECRET, SECRET)

    async def both(saga: Saga) -> None:
        await saga.execute_activity("a", SECRET, compensation="undo_a")
        await saga.execute_activity("b", SECRET, compensation_from=choose)

    return body


def logged(how: str, caplog: pytest.LogCaptureFixture, **undos: Any) -> tuple[Run, list[logging.LogRecord]]:
    """Run it; return the library's records of level INFO and above."""
    caplog.set_level(logging.INFO)
    run = Run(unwinds(how)).start()
    for name in "ab":
        swallowed = how == "a swallowed failure"
        run.activate(failed(name, BROKEN) if swallowed else completed(name, f"result {SECRET}"))
    if how == "a cancel":
        run.activate(cancel())
    while run.closed is None:
        name = run.names[-1] if how == "concurrent" else run.names[0]
        outcome = undos.get(name)
        if callable(outcome):
            run.activate(outcome(name))
        else:
            run.activate(completed(name, SECRET) if outcome is None else failed(name, outcome))
    return run, [record for record in caplog.records if record.name == "temporalio.workflow"]


def texts(records: list[logging.LogRecord], level: int) -> list[str]:
    return [record.getMessage() for record in records if record.levelno == level]


@pytest.mark.parametrize("how", ENDINGS)
def test_a_complete_unwind_logs_its_start_and_its_end(how: str, caplog: pytest.LogCaptureFixture) -> None:
    run, records = logged(how, caplog)
    assert sorted(undone(run)) == ["undo_a", "undo_b"]
    infos = texts(records, logging.INFO)
    assert len(infos) == (4 if how == "a savepoint" else 2)  # whose saga unwinds after it
    assert all("unwinds" in info for info in infos[::2])
    assert all("has unwound" in info for info in infos[1::2])
    assert all("order-7" in info for info in infos)
    assert {record.levelno for record in records} == {logging.INFO}


@pytest.mark.parametrize("how", [each for each in ENDINGS if each != "a savepoint"])
def test_an_incomplete_unwind_logs_one_error(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is the line that wakes somebody: it says which saga, which steps, their keys, and what they met."""
    run, records = logged(how, caplog, undo_a=BROKEN)
    assert end(run) == "CompensationError"
    (error,) = texts(records, logging.ERROR)
    key = next(activity.id for activity in run.scheduled if activity.name == "undo_a").rpartition(":")[2]
    for part in ("order-7", "'a'", key, "Broken"):
        assert part in error, part
    assert "'b'" not in error
    assert any("unwinds" in info for info in texts(records, logging.INFO))
    assert not any("has unwound" in record.getMessage() for record in records)


def test_an_incomplete_savepoint_never_says_that_it_has_unwound(caplog: pytest.LogCaptureFixture) -> None:
    _, records = logged("a savepoint", caplog, undo_a=BROKEN)
    errors = texts(records, logging.ERROR)
    assert errors
    assert all("order-7" in error and "Broken" in error for error in errors)
    assert not any("has unwound" in record.getMessage() for record in records)


@pytest.mark.parametrize("how", ["a failure", "concurrent"])
def test_the_error_names_each_step_that_failed(how: str, caplog: pytest.LogCaptureFixture) -> None:
    other = ApplicationError(SECRET, type="Jammed", non_retryable=True)
    run, records = logged(how, caplog, undo_a=BROKEN, undo_b=other)
    (error,) = texts(records, logging.ERROR)
    for part in ("'a'", "'b'", "Broken", "Jammed"):
        assert part in error, part
    for activity in run.scheduled:
        assert activity.id.rpartition(":")[2] in error


FAILURES: dict[str, tuple[Any, str]] = {
    "an ApplicationError": (BROKEN, "Broken"),
    "one without a type": (ApplicationError(SECRET, non_retryable=True), "ApplicationError"),
    "a timeout": (lambda name: timed_out(name, TimeoutType.SCHEDULE_TO_CLOSE), "TimeoutError"),
    "a cancel of an operator's": (cancelled, "CancelledError"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_the_error_has_the_type_of_what_the_undo_met(what: str, caplog: pytest.LogCaptureFixture) -> None:
    failure, name = FAILURES[what]
    _, records = logged("a failure", caplog, undo_a=failure)
    (error,) = texts(records, logging.ERROR)
    assert name in error


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("complete", [True, False])
def test_rule_11_the_log_holds_no_argument_and_no_text_of_an_error(
    how: str, complete: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _, records = logged(how, caplog, **({} if complete else {"undo_a": BROKEN, "undo_b": BROKEN}))
    assert records
    for record in records:
        assert record.exc_info is None
        everything = {key: str(value) for key, value in vars(record).items()}
        assert SECRET not in json.dumps(everything)


def test_the_error_can_be_searched_by_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    """A structured log has the saga as a field, on each line, as it always had."""
    _, records = logged("a failure", caplog, undo_a=BROKEN)
    for record in records:
        assert vars(record)["saga"] == "order-7"


def test_replay_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One line for one event: not one more for each time that a worker loads the run."""
    run, records = logged("a failure", caplog, undo_a=BROKEN)
    before = len(records)
    run.check()  # which insists on silence
    run.replay()
    after = [record for record in caplog.records if record.name == "temporalio.workflow"]
    assert len(after) == before


def test_a_failed_callback_is_named_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def jams(secret: str) -> None:
        raise ApplicationError(secret, type="Jammed")

    @flow
    async def body() -> str:
        try:
            async with new_saga("order-7") as saga:
                saga.add_callback(jams, SECRET)
                raise REFUSED
        except CompensationError:
            assert not workflow.unsafe.is_replaying()
        return "done"

    assert Run(body).start().result == "done"
    (error,) = texts([r for r in caplog.records if r.name == "temporalio.workflow"], logging.ERROR)
    for part in ("order-7", "'jams'", "Jammed"):
        assert part in error
    assert SECRET not in error
