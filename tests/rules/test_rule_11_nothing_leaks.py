"""Rule 11: reports, queries, summaries, details and logs carry names, keys and states, and nothing else."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, CompensationError, StepOutcome
from tests.driver import Run, completed
from tests.rules.workflows import do, end, flow, new_saga

SECRET = "4242-4242"


class Boom(ApplicationError):
    def __init__(self) -> None:
        super().__init__(f"message {SECRET}", f"detail {SECRET}", type="Boom", non_retryable=True)


def choose(outcome: StepOutcome[Any, Any]) -> Compensation:
    return Compensation("undo_chosen", [outcome.result, SECRET])


async def failing_callback(secret: str) -> None:
    raise ApplicationError(secret, secret)


@flow
async def secrets() -> str:
    details: list[str] = []
    try:
        async with new_saga() as saga:
            await saga.execute_activity("a", SECRET, compensation="undo_a")
            await saga.execute_activity("chosen", {"number": SECRET}, compensation_from=choose)
            saga.add_compensation("undo_by_hand", SECRET)
            saga.add_callback(failing_callback, SECRET)
            with suppress(ActivityError):
                await saga.execute_activity("b", args=[SECRET, 1], compensation="undo_b")
            await saga.execute_child_workflow("Child", SECRET, compensation="undo_child")
            raise Boom
    except CompensationError as error:
        details = [str(error.message), json.dumps([str(detail) for detail in error.details])]
        details.append(workflow.get_current_details())
    return "\n".join(details)


def unwound() -> Run:
    return Run(secrets).autopilot(
        {
            "a:do": f"result {SECRET}",
            "chosen:do": SECRET,
            "b:do": Boom(),
            "Child:do": SECRET,
            "undo_a": Boom(),
            "undo_by_hand": SECRET,
        }
    )


def test_rule_11_the_report_the_error_and_the_details() -> None:
    run = unwound()
    text = run.result
    assert "failing_callback" in text  # it does tell something
    assert SECRET not in text
    assert "message" not in text
    assert "detail " not in text
    run.check()


def test_rule_11_the_query() -> None:
    run = Run(secrets).start()
    while run.closed is None:
        assert SECRET not in json.dumps(run.query("saga_report"))
        behaviours = {"a:do": SECRET, "b:do": Boom(), "undo_a": Boom()}
        run.activate(run._next(behaviours))
    assert SECRET not in json.dumps(run.query("saga_report"))
    run.check()


def test_rule_11_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    unwound()
    ours = [record for record in caplog.records if record.name == "temporalio.workflow"]
    levels = [record.levelname for record in ours]
    assert levels == ["INFO", "ERROR"]
    for record in ours:
        assert record.exc_info is None
        everything = {key: str(value) for key, value in vars(record).items()}
        assert SECRET not in json.dumps(everything)


def test_rule_11_summaries() -> None:
    run = unwound()
    summaries = {
        activation.run.data_converter.payload_converter.from_payload(command.user_metadata.summary)
        for activation in run.activations
        for command in activation.protos
        if command.HasField("user_metadata")
    }
    assert summaries == {"undo a", "undo b", "undo chosen", "undo undo_by_hand", "undo Child"}


def test_rule_11_no_repr_shows_arguments() -> None:
    seen: list[str] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            seen.append(repr(Compensation("undo_a", SECRET)))
            seen.append(repr(saga))
            seen.append(repr(saga.report()))

    Run(body).autopilot({"a": SECRET})
    assert len(seen) == 3
    assert SECRET not in "".join(seen)


def test_rule_11_a_report_holds_the_outcome_and_not_the_result() -> None:
    run = Run(secrets).start()
    run.activate(completed("a", SECRET))
    (report,) = run.query("saga_report")
    assert set(report) == {"name", "state", "steps"}
    (first, *_) = report["steps"]
    key = first.pop("key")
    assert len(key) == 36
    assert first == {
        "name": "a",
        "state": "APPLIED",
        "undo": "undo_a",
        "undo_state": "PENDING",
        "who": None,
        "why": None,
    }


def test_rule_11_misuse_of_a_choice_does_not_show_the_result() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a", compensation_from=lambda outcome: outcome.result)

    run = Run(body).autopilot({"a": SECRET})
    assert end(run) == "task: RuntimeError"
    assert SECRET not in run.commands[-1][2]
