"""The errors, and what each says."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from temporal_saga import CompensationError, SagaClosed, SagaDeadlineExceeded, SagaReport, errors
from temporal_saga._proof import heartbeat_mark, mark_in, says_no_effect, without_mark
from temporal_saga.errors import (
    ActivityFailure,
    Ambiguous,
    AuthenticationError,
    Conflict,
    Declined,
    FailureKind,
    Fenced,
    InProgress,
    KeyMisuse,
    NotSent,
    Rejected,
    Throttled,
)

RETRYABLE: list[type[ActivityFailure]] = [NotSent, Throttled, Conflict, InProgress, Ambiguous]
FINAL: list[type[ActivityFailure]] = [Rejected, Declined, AuthenticationError, KeyMisuse, Fenced]
BENIGN = {Declined, InProgress, Throttled}
NO_EFFECT = {NotSent, Throttled, Conflict, Rejected, Declined, AuthenticationError, Fenced}
WAIT = timedelta(seconds=7)


def raised_at(attempt: int, make: Callable[[], Exception], **changes: Any) -> ApplicationError:
    """The error as an activity raises it."""

    def fail() -> None:
        raise make()

    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=attempt, **changes)
    with pytest.raises(ApplicationError) as caught:
        environment.run(fail)
    return caught.value


def effect(error: ApplicationError) -> Any:
    return error.details[-1]["temporal_saga"]["effect"]


@pytest.mark.parametrize("error", RETRYABLE + FINAL)
def test_what_each_error_is(error: type[ActivityFailure]) -> None:
    made = raised_at(1, lambda: error("text", {"code": 1}))
    assert (made.type, made.message) == (error.__name__, "text")
    assert made.non_retryable is (error in FINAL)
    assert (made.category is ApplicationErrorCategory.BENIGN) is (error in BENIGN)
    says = "none" if error in NO_EFFECT else "unknown"
    mark = {"temporal_saga": {"v": 1, "kind": error.kind.value, "effect": says}}
    assert list(made.details) == [{"code": 1}, mark]
    assert says_no_effect(made) is (error in NO_EFFECT)
    assert error().message  # each has words of its own


def test_each_kind_that_can_be_raised_has_one_error() -> None:
    kinds = {error.kind for error in RETRYABLE + FINAL}
    assert len(kinds) == len(RETRYABLE + FINAL)
    assert set(FailureKind) - kinds == {FailureKind.CANCELLED, FailureKind.BUG, FailureKind.INFRA}


def test_what_a_kind_says_of_retries() -> None:
    retryable = {kind for kind in FailureKind if kind.retryable}
    assert retryable == {error.kind for error in RETRYABLE} | {FailureKind.BUG}


@pytest.mark.parametrize("error", RETRYABLE)
def test_a_retryable_error_may_say_when(error: Callable[..., ActivityFailure]) -> None:
    assert error(retry_after=WAIT).next_retry_delay == WAIT
    assert error().next_retry_delay is None


@pytest.mark.parametrize("error", RETRYABLE)
def test_a_delay_that_the_sdk_cannot_encode_is_refused(error: Callable[..., ActivityFailure]) -> None:
    with pytest.raises(TypeError, match=r"^retry_after must be a timedelta, such as timedelta\(seconds=3\); got 3$"):
        error("later", retry_after=3)


@pytest.mark.parametrize("error", FINAL)
def test_a_final_error_cannot(error: Callable[..., ActivityFailure]) -> None:
    with pytest.raises(TypeError):
        error(retry_after=WAIT)


@pytest.mark.parametrize(
    ("attempt", "details", "says"),
    [
        (1, [], "none"),
        (2, [], "unknown"),
        (2, [heartbeat_mark(1)], "none"),
        (3, [heartbeat_mark(2)], "none"),
        (3, ["progress", heartbeat_mark(2)], "unknown"),  # an earlier attempt has done something
        (3, [heartbeat_mark(1)], "unknown"),  # the second was lost
        (2, [heartbeat_mark(2)], "unknown"),
        (2, [heartbeat_mark(1), "progress"], "unknown"),
        (2, [{"temporal_saga": 1}], "unknown"),
    ],
)
def test_an_error_proves_no_effect_if_each_earlier_attempt_had_none(
    attempt: int, details: list[Any], says: str
) -> None:
    assert effect(raised_at(attempt, Declined, heartbeat_details=details)) == says
    assert effect(raised_at(attempt, Ambiguous, heartbeat_details=details)) == "unknown"


def test_the_first_attempt_after_an_operators_reset_is_not_the_first() -> None:
    started = ActivityEnvironment.default_info().scheduled_time
    later = started + timedelta(seconds=1)
    assert effect(raised_at(1, Declined, current_attempt_scheduled_time=later)) == "unknown"


def test_outside_of_an_activity_nothing_is_known() -> None:
    assert not activity.in_activity()
    assert effect(Declined()) == "unknown"


def test_a_subclass_keeps_the_kind_and_has_its_own_type() -> None:
    class CardDeclined(Declined):
        """The user's own."""

    made = raised_at(1, CardDeclined)
    assert made.type == "CardDeclined"
    assert made.details[-1]["temporal_saga"] == {"v": 1, "kind": "DECLINED", "effect": "none"}


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "error",
    [
        *(error("text", {"card": "4242"}, retry_after=WAIT) for error in RETRYABLE),
        *(error("text", {"card": "4242"}) for error in FINAL),
        SagaClosed("text", {"card": "4242"}),
        SagaDeadlineExceeded("text", {"card": "4242"}),
        CompensationError("text", SagaReport("order", "INCOMPLETE", [])),
        errors.FenceMisuse("text", non_retryable=False),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_copy_keeps_what_the_error_carries(error: ApplicationError, again: Callable[[Any], Any]) -> None:
    made = again(error)
    assert type(made) is type(error)
    for name in ("args", "message", "type", "non_retryable", "next_retry_delay", "category"):
        assert getattr(made, name) == getattr(error, name), name
    assert list(made.details) == list(error.details)


@pytest.mark.parametrize("error", RETRYABLE + FINAL)
def test_what_is_printed_shows_no_details(error: type[ActivityFailure]) -> None:
    made = error("text", {"card": "4242"})
    assert repr(made) == f"{error.__name__}('{error.__name__}: text')"
    assert str(made) == f"{error.__name__}: text"


async def test_what_travels() -> None:
    failure = Failure()
    await DataConverter.default.encode_failure(raised_at(1, lambda: Throttled("later", 5, retry_after=WAIT)), failure)
    info = failure.application_failure_info
    assert (info.type, info.non_retryable, info.next_retry_delay.ToTimedelta()) == ("Throttled", False, WAIT)
    decoded = await DataConverter.default.decode_failure(failure)
    assert isinstance(decoded, ApplicationError)
    assert says_no_effect(decoded)
    assert list(decoded.details[:-1]) == [5]


def test_a_mark_is_the_last_detail_and_nothing_else() -> None:
    mark = heartbeat_mark(3)
    assert mark_in([1, mark]) == {"v": 1, "definite_through": 3}
    assert without_mark([1, mark]) == [1]
    for details in ([], [mark, 1], [{**mark, "mine": 1}], [{"temporal_saga": None}], ["temporal_saga"]):
        assert mark_in(details) is None
        assert without_mark(details) is details


def test_the_module_exports_what_it_defines() -> None:
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert public == {*errors.__all__, "ActivityFailure", "FenceMisuse"}
    assert sorted(errors.__all__) == errors.__all__
