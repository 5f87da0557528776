"""What the package exports, its presets, and its errors as they travel."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.failure.v1 import Failure
from temporalio.common import RetryPolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

import temporal_saga
from temporal_saga import (
    Compensation,
    CompensationError,
    Declined,
    Outcome,
    Rejected,
    SagaClosed,
    SagaDeadlineExceeded,
    SagaReport,
    StepReport,
    presets,
)
from temporal_saga._options import check_options

PUBLIC = [
    "Compensation", "CompensationError", "Declined", "DuplicateStep", "Outcome", "Parked", "Rejected", "Saga",
    "SagaClosed", "SagaDeadlineExceeded", "SagaReport", "SagaState", "SagaStateTooLarge", "Step", "StepOutcome",
    "StepReport", "business_key", "current_step", "errors", "presets",
]  # fmt: skip


def test_the_facade() -> None:
    assert sorted(temporal_saga.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(temporal_saga, name).__doc__, name


def test_outcomes_are_strings() -> None:
    assert [outcome.value for outcome in Outcome] == ["APPLIED", "NOT_APPLIED", "UNKNOWN"]
    assert Outcome.APPLIED == "APPLIED"


# --- presets ---

SECONDS = {
    "standard": (600, None, 30, 1, 30, 8),
    "forward_only": (None, None, 30, 1, 120, 0),
    "compensation": (None, None, 30, 1, 60, 0),
}


@pytest.mark.parametrize("name", SECONDS)
def test_presets_set_all_four_options(name: str) -> None:
    options = getattr(presets, name)()
    assert set(options) == {
        "schedule_to_close_timeout",
        "schedule_to_start_timeout",
        "start_to_close_timeout",
        "retry_policy",
    }
    to_close, to_start, one, initial, longest, attempts = SECONDS[name]
    assert options["schedule_to_close_timeout"] == (to_close and timedelta(seconds=to_close))
    assert options["schedule_to_start_timeout"] is to_start
    assert options["start_to_close_timeout"] == timedelta(seconds=one)
    assert options["retry_policy"] == RetryPolicy(
        initial_interval=timedelta(seconds=initial),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=longest),
        maximum_attempts=attempts,
    )
    assert getattr(presets, name).policy == options["retry_policy"]
    assert getattr(presets, name).config() == options


def test_presets_take_changes_and_do_not_keep_them() -> None:
    changed = presets.standard(start_to_close_timeout=timedelta(seconds=3))
    assert changed["start_to_close_timeout"] == timedelta(seconds=3)
    assert presets.standard()["start_to_close_timeout"] == timedelta(seconds=30)


def test_presets_are_frozen() -> None:
    with pytest.raises(AttributeError):
        presets.standard.maximum_attempts = 1  # type: ignore[misc]


# --- errors ---

REPORT = SagaReport("saga", "INCOMPLETE", [StepReport("a", "key", "APPLIED", "undo_a", "FAILED")])
ERRORS = [
    CompensationError("message", REPORT),
    SagaClosed("message"),
    SagaDeadlineExceeded("message"),
    Declined("message", {"code": 402}, 7),
    Rejected("message", "detail"),
    Declined(),
    Rejected(),
]


def pickled(error: ApplicationError) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy])
def test_errors_survive_pickling_and_copying(error: ApplicationError, copied: Any) -> None:
    again = copied(error)
    assert type(again) is type(error)
    assert (again.message, again.type, again.non_retryable, again.category) == (
        error.message,
        error.type,
        error.non_retryable,
        error.category,
    )
    assert again.details == error.details
    assert str(again) == str(error)


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_errors_travel_as_application_errors(error: ApplicationError) -> None:
    converter, failure = DataConverter.default, Failure()
    converter.failure_converter.to_failure(error, converter.payload_converter, failure)
    again = converter.failure_converter.from_failure(failure, converter.payload_converter)
    assert isinstance(again, ApplicationError)
    assert again.type == type(error).__name__
    assert again.non_retryable
    assert again.message == error.message
    assert len(again.details) == len(error.details)


def test_errors_their_categories() -> None:
    assert Declined("x").category is ApplicationErrorCategory.BENIGN
    assert Rejected("x").category is ApplicationErrorCategory.UNSPECIFIED


def test_errors_the_detail_of_an_incomplete_saga_is_its_report() -> None:
    (detail,) = CompensationError("x", REPORT).details
    assert detail == REPORT


# --- Compensation ---


@activity.defn
async def one(a: int) -> None:
    pass


@activity.defn
async def one_or_two(a: int, b: int = 0) -> None:
    pass


@activity.defn
def none() -> None:
    pass


@activity.defn
async def two(a: int, b: str) -> None:
    pass


@activity.defn
async def untyped(a, b) -> None:  # type: ignore[no-untyped-def]
    pass


class Bank:
    @activity.defn
    async def method(self, a: int) -> None:
        pass


def undecorated(a: int) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (one, []), (one, [1, 2]), (none, [1]), (two, [1]), (two, [1, 2, 3]), (one_or_two, []),
        (one_or_two, [1, 2, 3]), (untyped, [1]), (Bank.method, []), (Bank.method, [1, 2]),
    ],
)  # fmt: skip
def test_compensation_that_cannot_take_its_arguments(function: Any, args: list[Any]) -> None:
    with pytest.raises(TypeError, match="argument"):
        Compensation(function, args=args)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (one, [1]), (none, []), (two, [1, "x"]), (one_or_two, [1]), (one_or_two, [1, 2]),
        (untyped, [1, 2]), (Bank.method, [1]), ("by_name", []), ("by_name", [1, 2, 3]),
    ],
)  # fmt: skip
def test_compensation_that_can(function: Any, args: list[Any]) -> None:
    compensation = Compensation(function, args=args)
    assert compensation.name in ("one", "none", "two", "one_or_two", "untyped", "method", "by_name")


def test_compensation_wrong_ways_to_make_one() -> None:
    with pytest.raises(TypeError, match="not both"):
        Compensation("undo", 1, args=[2])
    with pytest.raises(TypeError, match="add_callback"):
        Compensation(undecorated, 1)
    with pytest.raises(TypeError, match="activity_id"):
        Compensation("undo", activity_id="mine")
    with pytest.raises(TypeError):
        Compensation.child_workflow(undecorated)  # type: ignore[arg-type]


@workflow.defn
class Undo:
    @workflow.run
    async def run(self, a: int) -> None:
        pass


SECOND = timedelta(seconds=1)
WRONG_OPTIONS: list[tuple[Any, str]] = [
    ({"start_to_close_timeout": 5}, "start_to_close_timeout must be a timedelta, such as timedelta(seconds=5); got 5"),
    (
        {"start_to_close_timeot": SECOND},
        "start_to_close_timeot= is not an option of an activity; did you mean start_to_close_timeout=",
    ),
    ({"compensate": 1}, "compensate= is not an option of an activity"),
    ({"max_attempts": 3}, "dataclasses.replace(presets.standard, maximum_attempts=3)"),
    ({"non_retryable_errors": ["A"]}, "dataclasses.replace(presets.standard, non_retryable_error_types=['A'])"),
    ({"retry_policy": presets.standard}, "must be a RetryPolicy, such as presets.standard.policy"),
    ({"retry_policy": RetryPolicy(initial_interval=5)}, "initial_interval must be a timedelta"),  # type: ignore[arg-type]
    ({"retry_policy": RetryPolicy(maximum_interval=5)}, "maximum_interval must be a timedelta"),  # type: ignore[arg-type]
    (
        {"retry_policy": RetryPolicy(non_retryable_error_types=[KeyError])},  # type: ignore[list-item]
        "must hold names, such as 'KeyError'",
    ),
    ({"retry_policy": RetryPolicy(backoff_coefficient=0.5)}, "Backoff coefficient"),
    ({"activity_id": "mine"}, "the saga sets the activity id"),
]
OF_A_CHILD: list[tuple[Any, str]] = [
    ({"execution_timeout": 5}, "execution_timeout must be a timedelta"),
    ({"start_to_close_timeout": SECOND}, "start_to_close_timeout= is not an option of a child workflow"),
    ({"max_attempts": 3}, "retry_policy=RetryPolicy(maximum_attempts=3)"),
]


@pytest.mark.parametrize(("options", "says"), WRONG_OPTIONS)
@pytest.mark.parametrize("make", [partial(Compensation, "undo"), partial(Compensation, one, 1)])
def test_compensation_options_are_looked_at_when_it_is_made(make: Any, options: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(says)):
        make(**options)


@pytest.mark.parametrize(("options", "says"), OF_A_CHILD)
@pytest.mark.parametrize("make", [partial(Compensation, Undo.run, 1), partial(Compensation.child_workflow, "Undo", 1)])
def test_compensation_options_of_a_child_workflow(make: Any, options: Any, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        make(**options)


@pytest.mark.parametrize("function", [workflow.start_activity, workflow.start_child_workflow])
def test_compensation_options_are_all_that_the_sdk_takes(function: Any) -> None:
    kind: Any = "child" if function is workflow.start_child_workflow else "activity"
    names = {*inspect.signature(function).parameters} - {"activity", "workflow", "arg", "args", "activity_id"}
    check_options(dict.fromkeys(names), kind)
    assert len(names) > 10


def test_compensation_none_is_an_argument() -> None:
    assert repr(Compensation("undo", None)) == "Compensation('undo')"
    with pytest.raises(TypeError, match="argument"):
        Compensation(none, None)  # type: ignore[arg-type]
