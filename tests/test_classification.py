"""What becomes of an activity's exception, attempt after attempt; the real server's part is in tests/server."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import pickle
import re
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints
from uuid import UUID

import httpx
import pytest
import stripe as stripe_sdk
from hypothesis import given
from hypothesis import strategies as st
from temporalio import activity, workflow
from temporalio.api.failure.v1 import Failure
from temporalio.common import RetryPolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput

from temporal_saga import Saga, errors, presets
from temporal_saga._proof import heartbeat_mark
from temporal_saga.classification import (
    Profile,
    Rule,
    _attempt,
    adyen,
    classify,
    classify_errors,
    paypal,
    square,
    stripe,
)
from temporal_saga.errors import Ambiguous, Conflict, Declined, FailureKind, FenceMisuse, NotSent, Rejected, Throttled
from temporal_saga.plugin import SagaPlugin
from temporal_saga.testing import simulate
from tests.test_docs import load

OURS = {
    FailureKind.NOT_SENT: "NotSent",
    FailureKind.THROTTLED: "Throttled",
    FailureKind.CONFLICT: "Conflict",
    FailureKind.IN_PROGRESS: "InProgress",
    FailureKind.AMBIGUOUS: "Ambiguous",
    FailureKind.REJECTED: "Rejected",
    FailureKind.DECLINED: "Declined",
    FailureKind.AUTH: "AuthenticationError",
    FailureKind.KEY_MISUSE: "KeyMisuse",
    FailureKind.FENCED: "Fenced",
}
SECOND = timedelta(seconds=1)


class Mine(Exception):
    """A class that only a rule of the user's knows."""


class Http(Exception):
    """What a client for HTTP might raise."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


def rule(kind: FailureKind, of: type[BaseException] = Mine) -> Rule:
    return Rule(of.__module__, of.__name__, kind)


class Attempts:
    """The attempts of one activity: each begins with the heartbeat details that the last one left."""

    def __init__(self, **info: Any) -> None:
        self.details: Sequence[Any] = []
        self.attempt = 0
        self.info = info

    def run(self, function: Callable[..., Any], *args: Any) -> BaseException | None:
        """Run an attempt and return its error."""
        try:
            self._environment(function).run(function, *args)
        except BaseException as error:
            return error
        return None

    async def run_async(self, function: Callable[..., Any], *args: Any) -> BaseException | None:
        """Run an attempt of an activity that may be async, and return its error."""
        try:
            result = self._environment(function).run(function, *args)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            return error
        return None

    def _environment(self, function: Callable[..., Any]) -> ActivityEnvironment:
        self.attempt += 1
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(
            environment.info,
            attempt=self.attempt,
            heartbeat_details=list(self.details),
            activity_type=activity._Definition.must_from_callable(function).name or "dynamic",
            **self.info,
        )
        environment.on_heartbeat = self._heartbeat
        return environment

    def effect(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run an attempt and return what its error says of the effect."""
        return effect(self.run(function, *args))

    def lose(self) -> None:
        """Lose an attempt: it does not come to an end."""
        self.attempt += 1

    def _heartbeat(self, *details: Any) -> None:
        self.details = details


def effect(error: BaseException | None) -> Any:
    assert isinstance(error, ApplicationError)
    return error.details[-1]["temporal_saga"]["effect"]


@activity.defn
@classify_errors
def fail(error: BaseException) -> None:
    raise error


def outcome(error: BaseException, *, attempt: int = 1, **options: Any) -> BaseException:
    """What becomes of an exception in an activity that is decorated with these options."""

    @activity.defn
    @classify_errors(**options)
    def raises() -> None:
        raise error

    attempts = Attempts()
    attempts.attempt = attempt - 1
    raised = attempts.run(raises)
    assert raised is not None
    return raised


# --- what becomes of one exception


@pytest.mark.parametrize("kind", OURS)
def test_each_kind_becomes_its_error(kind: FailureKind) -> None:
    error = Mine("of a user")
    made = outcome(error, rules=[rule(kind)])
    assert isinstance(made, ApplicationError)
    assert (type(made).__name__, made.type) == (OURS[kind], OURS[kind])
    assert made.non_retryable is not kind.retryable
    assert made.__cause__ is error
    assert str(made) == f"{OURS[kind]}: tests.Mine"
    assert list(made.details) == [{"temporal_saga": {"v": 1, "kind": kind.value, "effect": kind.effect}}]


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind not in OURS])
def test_the_other_kinds_go_on_as_they_are(kind: FailureKind) -> None:
    error = Mine()
    assert outcome(error, rules=[rule(kind)]) is error


def test_what_no_rule_knows_goes_on_as_it_is() -> None:
    error = Mine()
    assert outcome(error) is error
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        CancelledError(),
        activity._CompleteAsyncError(),
        KeyboardInterrupt(),
        ApplicationError("text", "detail", type="Mine"),
    ],
    ids=repr,
)
def test_what_says_itself_what_it_is_goes_on(error: BaseException) -> None:
    cause = error.__cause__ = ValueError()
    everything = [rule(FailureKind.DECLINED, each) for each in (Exception, BaseException)]
    options: dict[str, Any] = {} if type(error) is ApplicationError else {"rules": everything}
    assert outcome(error, **options) is error
    assert error.__cause__ is cause


@pytest.mark.parametrize(
    "make", [lambda: Declined("text", "detail"), lambda: Throttled(retry_after=SECOND / 4)], ids=["final", "retried"]
)
def test_an_error_of_ours_that_is_right_goes_on(make: Callable[[], Exception]) -> None:
    made: list[Exception] = []

    @activity.defn
    @classify_errors(rules=[rule(FailureKind.AUTH, Exception)])
    def raises() -> None:
        made.append(make())
        raise made[0] from Mine()

    error = Attempts().run(raises)
    assert error is made[0]
    assert isinstance(error.__cause__, Mine)


SHARED = Declined("no funds", {"card": "4242"})


def test_an_error_that_two_attempts_share_says_of_each_what_is_true_of_it() -> None:
    before = effect(SHARED)
    third, first = outcome(SHARED, attempt=3), outcome(SHARED)
    assert (before, effect(third), effect(first), effect(SHARED)) == ("unknown", "unknown", "none", "unknown")
    assert isinstance(first, Declined)
    assert (first.message, first.details[0], first.non_retryable) == ("no funds", {"card": "4242"}, True)
    assert first.category is ApplicationErrorCategory.BENIGN


@pytest.mark.parametrize("how", ["from", "while", "from None", "alone"])
async def test_what_is_said_in_its_place_has_its_cause_and_not_itself(how: str) -> None:
    error = NotSent(retry_after=timedelta(days=2))  # is to be shortened

    @activity.defn
    @classify_errors
    def raises() -> None:
        try:
            if how != "alone":
                raise Mine("why")
        except Mine as why:
            if how == "from":
                raise error from why
            if how == "from None":
                raise error from None
            raise error  # noqa: B904  # which leaves `why` as its context
        raise error

    made = Attempts(schedule_to_close_timeout=None).run(raises)
    assert isinstance(made, NotSent)
    assert made is not error
    assert made.next_retry_delay == timedelta(days=1)
    failure = Failure()
    await DataConverter.default.encode_failure(made, failure)
    assert "in raises" in failure.stack_trace
    assert failure.cause.message == ("why" if how in ("from", "while") else "")


def test_a_rule_of_the_users_own_may_be_for_an_application_error_of_theirs() -> None:
    class OutOfStock(ApplicationError):
        """Their own."""

    error = OutOfStock("text", next_retry_delay=SECOND / 4)
    made = outcome(error, rules=[Rule(__name__, "OutOfStock", FailureKind.THROTTLED)])
    assert isinstance(made, Throttled)
    assert made.next_retry_delay == SECOND / 4


def test_a_mark_on_the_failure_of_another_activity_is_no_proof_of_this_one() -> None:
    """As decoded from the failure of a workflow that the activity has waited for, and raised on."""
    mark = {"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}
    error = ApplicationError(
        "text",
        1,
        mark,
        type="Declined",
        non_retryable=True,
        next_retry_delay=SECOND,
        category=ApplicationErrorCategory.BENIGN,
    )
    made = outcome(error)
    assert isinstance(made, ApplicationError)
    assert list(made.details) == [1]
    for name in ("message", "type", "non_retryable", "next_retry_delay", "category"):
        assert getattr(made, name) == getattr(error, name)


def test_an_unknown_exception_where_ambiguous_is_not_tried_again() -> None:
    attempts = Attempts(retry_policy=RetryPolicy(non_retryable_error_types=["Ambiguous"]))
    error = Mine("of a user")
    made = attempts.run(fail, error)
    assert type(made) is Ambiguous
    assert made.__cause__ is error
    own = ApplicationError("their author decided")
    assert attempts.run(fail, own) is own
    # concurrent.futures', of a future that the activity has waited for; the SDK's own is a cancel of the activity.
    assert type(attempts.run(fail, FutureCancelledError())) is Ambiguous
    cancelled = CancelledError()
    assert attempts.run(fail, cancelled) is cancelled
    assert type(attempts.run(fail, ConnectionRefusedError())) is NotSent


@pytest.mark.parametrize("kind", [FailureKind.INFRA, FailureKind.CANCELLED, FailureKind.BUG])
def test_a_kind_without_an_error_where_ambiguous_is_not_tried_again(kind: FailureKind) -> None:
    @activity.defn
    @classify_errors(rules=[rule(kind)])
    def raises() -> None:
        raise Mine

    assert type(Attempts(retry_policy=RetryPolicy(non_retryable_error_types=["Ambiguous"])).run(raises)) is Ambiguous
    assert type(Attempts().run(raises)) is Mine


def test_a_hint_becomes_the_delay() -> None:
    attempts = Attempts(schedule_to_close_timeout=None)
    made = attempts.run(fail, Http(429, {"Retry-After": "7"}))
    assert isinstance(made, Throttled)
    assert made.next_retry_delay == timedelta(seconds=7)


@given(
    hint=st.integers(1, 4000),
    overall=st.none() | st.integers(1, 1000),
    once=st.none() | st.integers(1, 1000),
    used=st.integers(0, 1200),
    how=st.sampled_from(
        [lambda hint: Http(429, {"Retry-After": str(hint)}), lambda hint: Throttled(retry_after=hint * SECOND)]
    ),
)
def test_a_wait_is_never_shortened_and_is_final_if_no_full_attempt_fits_after_it(
    hint: int, overall: int | None, once: int | None, used: int, how: Callable[[int], Exception]
) -> None:
    """Issue 11, F6, whoever asks for the wait: a header, or the activity's own `Throttled(retry_after=)`."""
    began = ActivityEnvironment.default_info().scheduled_time
    attempts = Attempts(
        scheduled_time=began,
        started_time=began + used * SECOND,
        schedule_to_close_timeout=overall and overall * SECOND,
        start_to_close_timeout=once and once * SECOND,
    )
    made = attempts.run(fail, how(hint))
    assert isinstance(made, Throttled)
    assert made.next_retry_delay == hint * SECOND
    assert effect(made) == "none"
    if overall is None:
        assert not made.non_retryable
        return
    left = max(overall - used, 0)
    # With start-to-close as long as schedule-to-close no full attempt is left, ever: half of what is left has to do.
    spare = left - (left / 2 if once is None or once >= overall else once) - hint
    if abs(spare) > 1:  # the attempt itself takes a while
        assert made.non_retryable == (spare < 0)
    assert bool(attempts.details) is not made.non_retryable  # the mark is for a next attempt


def test_no_step_waits_for_more_than_a_day() -> None:
    made = Attempts(schedule_to_close_timeout=None).run(fail, Http(429, {"Retry-After": str(10**9)}))
    assert isinstance(made, Throttled)
    assert (made.next_retry_delay, made.non_retryable) == (timedelta(days=1), False)


@pytest.mark.parametrize(
    "error", [Declined(), Ambiguous(), NotSent(), ApplicationError("x", next_retry_delay=90 * SECOND)]
)
def test_what_asks_for_no_wait_or_is_not_ours_is_retried_as_it_was(error: ApplicationError) -> None:
    attempts = Attempts(schedule_to_close_timeout=2 * SECOND, start_to_close_timeout=SECOND)
    made = attempts.run(fail, error)
    assert isinstance(made, ApplicationError)
    assert (made.non_retryable, made.next_retry_delay) == (error.non_retryable, error.next_retry_delay)


async def test_a_helper_asks_for_no_more_than_a_day() -> None:
    @classify_errors
    def helper() -> None:
        raise Http(429, {"Retry-After": "9" * 30})

    @activity.defn
    def calls() -> None:
        helper()

    made = Attempts().run(calls)
    assert isinstance(made, Throttled)
    assert made.next_retry_delay == timedelta(days=1)
    await DataConverter.default.encode_failure(made, Failure())  # no protobuf takes the longest timedelta


def test_a_class_whose_module_is_no_text() -> None:
    odd = type("Odd", (Mine,), {"__module__": None})()
    made = outcome(odd, rules=[rule(FailureKind.DECLINED)])
    assert isinstance(made, Declined)
    assert made.message == "None.Odd"


def test_an_attribute_that_raises_does_not_take_the_place_of_the_error() -> None:
    class Odd(Exception):
        """Of someone's."""

        @property
        def response(self) -> Any:
            raise RuntimeError("not yet")

    error = Odd()
    assert classify(error, profile=stripe) is FailureKind.BUG
    assert outcome(error, profile=stripe) is error
    assert type(outcome(error, profile=stripe, rules=[Rule(__name__, "Odd", FailureKind.CONFLICT)])) is Conflict


# --- attempt after attempt, with the decorator alone


def test_proof_survives_attempts_that_had_no_effect() -> None:
    attempts = Attempts()
    assert attempts.effect(fail, ConnectionRefusedError()) == "none"
    assert attempts.details == (heartbeat_mark(1),)
    assert attempts.effect(fail, Throttled()) == "none"
    assert attempts.details == (heartbeat_mark(2),)
    assert attempts.effect(fail, Declined()) == "none"
    assert attempts.details == (heartbeat_mark(2),)  # the last one hands nothing on


@pytest.mark.parametrize(
    "error", [TimeoutError(), Mine(), ApplicationError("mine"), asyncio.CancelledError()], ids=repr
)
def test_proof_ends_with_an_attempt_that_may_have_had_one(error: BaseException) -> None:
    attempts = Attempts()
    attempts.run(fail, ConnectionRefusedError())
    attempts.run(fail, error)
    assert attempts.effect(fail, ConnectionRefusedError()) == "unknown"
    assert attempts.effect(fail, Declined()) == "unknown"
    assert attempts.effect(fail, Declined()) == "unknown"


def test_proof_ends_with_a_lost_attempt() -> None:
    attempts = Attempts()
    attempts.run(fail, ConnectionRefusedError())
    attempts.lose()
    assert attempts.effect(fail, ConnectionRefusedError()) == "unknown"
    assert attempts.effect(fail, Declined()) == "unknown"


def test_a_mark_from_before_an_operators_reset_is_taken_away() -> None:
    attempts = Attempts()
    attempts.run(fail, ConnectionRefusedError())
    attempts.run(fail, TimeoutError())  # it had its effect
    assert attempts.details == (heartbeat_mark(1),)  # the server keeps the last that it was sent
    attempts.attempt = 0
    info = ActivityEnvironment.default_info()
    attempts.info = {"current_attempt_scheduled_time": info.scheduled_time + SECOND}
    assert attempts.effect(fail, ConnectionRefusedError()) == "unknown"
    assert list(attempts.details) == []
    assert attempts.effect(fail, Declined()) == "unknown"


def test_a_stale_mark_is_taken_away_and_the_activitys_own_progress_is_not() -> None:
    seen: list[Any] = []

    @activity.defn
    @classify_errors
    def reads() -> None:
        seen.append(list(activity.info().heartbeat_details))

    attempts = Attempts()
    attempts.details, attempts.attempt = ["page", 7, heartbeat_mark(1)], 2  # the second was lost
    attempts.run(reads)
    assert list(attempts.details) == ["page", 7]
    assert seen == [["page", 7]]


def test_a_local_activity_cannot_heartbeat() -> None:
    attempts = Attempts(is_local=True)
    assert attempts.effect(fail, ConnectionRefusedError()) == "none"
    assert attempts.details == []


def test_an_attempt_that_returns_sends_nothing() -> None:
    @activity.defn
    @classify_errors
    def works() -> str:
        return "done"

    attempts = Attempts()
    assert attempts.run(works) is None
    assert attempts.details == []


def test_the_activity_sees_and_keeps_its_own_progress() -> None:
    seen: list[Any] = []

    @activity.defn
    @classify_errors
    def reads(error: Exception, *progress: int) -> None:
        seen.append(list(activity.info().heartbeat_details))
        if progress:
            activity.heartbeat(*progress)
        raise error

    attempts = Attempts()
    attempts.run(reads, NotSent())
    attempts.run(reads, NotSent(), 1, 2)
    attempts.run(reads, NotSent())  # sends none of its own
    assert attempts.details == (1, 2)
    attempts.run(reads, Declined())
    assert seen == [[], [], [1, 2], [1, 2]]


def test_where_the_sdks_context_has_changed_nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decorator cannot see then what the activity has sent."""
    public = SimpleNamespace(in_activity=activity.in_activity, info=activity.info)
    monkeypatch.setattr(_attempt, "activity", public)
    attempts = Attempts()
    assert attempts.effect(fail, ConnectionRefusedError()) == "unknown"
    assert attempts.details == []
    assert attempts.effect(fail, Declined()) == "unknown"


def test_a_heartbeat_that_cannot_be_sent_does_not_take_the_place_of_the_error() -> None:
    attempts = Attempts()

    def broken(*details: Any) -> None:
        raise RuntimeError("the loop is closed")

    attempts._heartbeat = broken  # type: ignore[method-assign]
    assert type(attempts.run(fail, ConnectionRefusedError())) is NotSent


def test_what_a_helper_raises_is_not_yet_how_the_attempt_ends() -> None:
    @classify_errors
    def helper() -> None:
        raise ConnectionRefusedError

    @activity.defn
    def tolerant() -> None:
        with pytest.raises(NotSent):
            helper()
        with pytest.raises(NotSent):
            fail(ConnectionRefusedError())  # an activity, and not the one that runs
        raise Mine

    attempts = Attempts()
    attempts.run(tolerant)
    assert attempts.details == []


def test_a_decorator_that_calls_again_takes_the_mark_back() -> None:
    tries: list[Exception] = [NotSent(), Mine()]

    @classify_errors
    @activity.defn
    def once() -> None:
        raise tries.pop(0)

    @functools.wraps(once)
    def twice() -> None:
        with pytest.raises(NotSent):
            once()
        once()

    attempts = Attempts()
    assert isinstance(attempts.run(twice), Mine)
    assert attempts.details == ()


# --- around the activity, with the plugin


class Inner(ActivityInboundInterceptor):
    """What is left of the worker: it calls the function."""

    def __init__(self) -> None:
        """Has none within."""

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        context = activity._Context.current()
        context.info, context.heartbeat = outbound.info, outbound.heartbeat

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        result = input.fn(*input.args)
        return await result if inspect.isawaitable(result) else result


class Outer(ActivityOutboundInterceptor):
    """The SDK's own info and heartbeat."""

    def __init__(self) -> None:
        """Has none within."""
        context = activity._Context.current()
        self._info, self._heartbeat = context.info, context.heartbeat

    def info(self) -> activity.Info:
        return self._info()

    def heartbeat(self, *details: Any) -> None:
        assert self._heartbeat is not None
        self._heartbeat(*details)


def plugged(function: Callable[..., Any]) -> Callable[[], Any]:
    """Put the plugin around a function; each call is the plugin's whole chain, called again by what is around it."""
    plugin: Any = SagaPlugin(classify=True)
    (interceptor,) = plugin.interceptors
    around = interceptor.intercept_activity(Inner())
    around.init(Outer())
    return lambda: around.execute_activity(ExecuteActivityInput(fn=function, args=[], executor=None, headers={}))


@pytest.mark.parametrize("off", [False, None])
def test_the_plugin_classifies_if_it_is_told_to(off: Any) -> None:
    plugin: Any = SagaPlugin(classify=off)
    (interceptor,) = plugin.interceptors
    inner = Inner()
    assert interceptor.intercept_activity(inner) is inner


async def test_an_interceptor_that_calls_again_takes_the_mark_back() -> None:
    tries: list[Exception] = [NotSent(), TimeoutError()]

    def once() -> None:
        raise tries.pop(0)

    @activity.defn
    async def attempt() -> None:
        call = plugged(once)
        with pytest.raises(NotSent):
            await call()
        await call()

    attempts = Attempts()
    assert type(await attempts.run_async(attempt)) is Ambiguous
    assert attempts.details == ()


async def test_a_broken_pool_is_left_to_the_sdk_which_ends_the_worker() -> None:
    error = BrokenProcessPool("a process was killed")

    def breaks() -> None:
        raise error

    @activity.defn
    async def attempt() -> None:
        await plugged(breaks)()

    assert await Attempts().run_async(attempt) is error


def test_called_by_hand_an_activity_raises_the_same() -> None:
    with pytest.raises(NotSent) as error:
        fail(ConnectionRefusedError())
    assert error.value.details[-1]["temporal_saga"]["effect"] == "unknown"


# --- progress: an activity that has sent details has done something


@dataclass(frozen=True)
class Try:
    """An attempt: the heartbeats it sends, and the kind of its failure; None: it is lost."""

    heartbeats: list[tuple[int, ...]]
    kind: FailureKind | None


class Lost(BaseException):
    """An attempt that does not come to an end."""


ERRORS: dict[FailureKind, type[Exception]] = {kind: getattr(errors, name) for kind, name in OURS.items()}
RETRIED = [kind for kind in OURS if kind.retryable]


def play(plan: Try) -> None:
    for details in plan.heartbeats:
        activity.heartbeat(*details)
    if plan.kind is None:
        raise Lost
    raise ERRORS[plan.kind]


@activity.defn
@classify_errors
def decorated(plan: Try) -> None:
    play(plan)


@activity.defn
@classify_errors
async def decorated_async(plan: Try) -> None:
    play(plan)


@activity.defn
async def under_the_plugin(plan: Try) -> None:
    await plugged(functools.partial(play, plan))()


@activity.defn(name="decorated_async")
async def under_both(plan: Try) -> None:
    await plugged(functools.partial(decorated_async, plan))()


HOW = [decorated, decorated_async, under_the_plugin, under_both]


def tries(kinds: Any) -> st.SearchStrategy[Try]:
    heartbeats = st.lists(st.lists(st.integers(), max_size=2).map(tuple), max_size=2)
    return st.builds(Try, heartbeats, kinds)


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
@given(
    before=st.lists(tries(st.none() | st.sampled_from(RETRIED)), max_size=3), last=tries(st.sampled_from(list(OURS)))
)
def test_an_error_proves_no_effect_only_if_the_activity_has_sent_no_details(
    how: Callable[..., Any], before: list[Try], last: Try
) -> None:
    """Nor if an earlier attempt was lost, or failed with an error that may have had an effect."""

    async def run() -> None:
        attempts = Attempts()
        is_definite = True
        for plan in [*before, last]:
            error = await attempts.run_async(how, plan)
            if any(plan.heartbeats) or plan.kind is None or plan.kind.effect != "none":
                is_definite = False
            if plan.kind is not None:
                assert effect(error) == ("none" if is_definite else "unknown")

    loop = asyncio.new_event_loop()  # not `asyncio.run`, which would take the loop of the async tests away
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
async def test_progress_in_this_attempt_proves_nothing(how: Callable[..., Any]) -> None:
    error = await Attempts().run_async(how, Try([(1,), ()], FailureKind.DECLINED))
    assert effect(error) == "unknown"


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
async def test_progress_in_an_earlier_attempt_proves_nothing(how: Callable[..., Any]) -> None:
    attempts = Attempts()
    attempts.attempt, attempts.details = 1, ["page", 7, heartbeat_mark(1)]  # of a release that left both
    assert effect(await attempts.run_async(how, Try([], FailureKind.DECLINED))) == "unknown"


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
async def test_a_heartbeat_without_details_and_our_own_mark_are_no_progress(how: Callable[..., Any]) -> None:
    attempts = Attempts()
    assert effect(await attempts.run_async(how, Try([()], FailureKind.NOT_SENT))) == "none"
    assert attempts.details == (heartbeat_mark(1),)
    assert effect(await attempts.run_async(how, Try([()], FailureKind.DECLINED))) == "none"


@workflow.defn(sandboxed=False)
class Exports:
    @workflow.run
    async def run(self, pages: int) -> None:
        async with Saga(activity_options=presets.no_retry()) as saga:
            await saga.execute_activity("export", pages, compensation="unexport")


@pytest.mark.parametrize("with_plugin", [False, True], ids=["decorator", "plugin"])
@pytest.mark.parametrize(("pages", "undone"), [(0, False), (3, True)])
def test_an_export_that_breaks_off_is_undone(with_plugin: bool, pages: int, undone: bool) -> None:
    """Each page has had an effect, and the refused connection speaks for the last page alone."""

    async def export(pages: int) -> None:
        for page in range(pages):
            activity.heartbeat(page)
        raise ConnectionRefusedError

    @activity.defn
    def unexport(pages: int) -> None:
        pass

    decorated = activity.defn(name="export")(export if with_plugin else classify_errors(export))
    plugins = [SagaPlugin(classify=with_plugin)]
    simulation = simulate(Exports.run, pages, activities=[decorated, unexport], plugins=plugins)
    assert simulation.status == "failed"
    assert ("export:undo" in [call.label for call in simulation.calls]) is undone


# --- what can be decorated


class Till:
    @activity.defn(name="above")
    @classify_errors
    async def above(self, error: Exception) -> str:
        raise error

    @classify_errors
    @activity.defn(name="below")
    def below(self, error: Exception) -> str:
        raise error


@classify_errors
@activity.defn
class Seal:
    async def __call__(self, error: Exception) -> str:
        raise error


@activity.defn
class Stamp:
    @classify_errors
    def __call__(self, error: Exception) -> str:
        raise error


@pytest.mark.parametrize("function", [Till().above, Till().below, Seal(), Stamp()])
async def test_methods_and_objects_that_are_called(function: Callable[..., Any]) -> None:
    attempts = Attempts()
    assert effect(await attempts.run_async(function, ConnectionRefusedError())) == "none"
    assert attempts.details == (heartbeat_mark(1),)
    assert effect(await attempts.run_async(function, Declined())) == "none"
    definition = activity._Definition.must_from_callable(function)
    assert definition.is_async is (type(function) is Seal or definition.name == "above")
    assert (definition.arg_types, definition.ret_type) == ([Exception], str)


def test_a_decorated_function_is_the_same_to_others() -> None:
    assert fail.__name__ == "fail"
    assert list(inspect.signature(fail).parameters) == ["error"]
    assert get_type_hints(fail) == {"error": BaseException, "return": type(None)}
    assert pickle.loads(pickle.dumps(fail)) is fail  # for a pool of processes


@pytest.mark.parametrize(
    "target",
    [functools.partial(print), Stamp(), staticmethod(print), 3],
    ids=["a partial", "an object", "a staticmethod", "an int"],
)
def test_what_cannot_be_decorated(target: Any) -> None:
    with pytest.raises(TypeError, match="classify_errors is for a function, a method or a class"):
        classify_errors(target)


def test_a_class_that_inherits_its_call_is_decorated_where_that_is() -> None:
    class Heir(Seal):
        """Has no `__call__` of its own."""

    with pytest.raises(TypeError, match="decorate the class that has it"):
        classify_errors(Heir)


# --- profiles


class ApiError(Exception):
    """As the SDKs of Square (`errors`), Adyen (`error_code`) and PayPal (`code` stands for theirs) raise it."""

    def __init__(self, status: int, *, headers: dict[str, str] | None = None, **fields: Any) -> None:
        super().__init__(status)
        self.status_code = status
        self.headers = headers or {}
        vars(self).update(fields)


def stripe_error(of: Any, status: int, code: str | None = None, **headers: str) -> Exception:
    error: Exception = of(
        "text", http_status=status, code=code, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    return error


@pytest.mark.parametrize(
    ("error", "profile", "kind"),
    [
        (Http(409), None, "REJECTED"),
        (Http(409), stripe, "IN_PROGRESS"),
        (Http(409), adyen, "IN_PROGRESS"),
        (Http(409), square, "IN_PROGRESS"),
        (Http(409), paypal, "IN_PROGRESS"),
        (Http(402), stripe, "DECLINED"),
        (Http(422), adyen, "AMBIGUOUS"),  # its code may be in a body that cannot be seen
        (Http(404), adyen, "REJECTED"),
        (Http(422), None, "REJECTED"),
        (Http(422), Profile(codes={"X": FailureKind.DECLINED}), "REJECTED"),
        (ApiError(422, error_code=None), adyen, "REJECTED"),
        (Http(422, {"Transient-Error": "true"}), adyen, "AMBIGUOUS"),
        (Http(422, {"Transient-Error": "true"}), None, "REJECTED"),
        (ApiError(422, error_code="704"), adyen, "IN_PROGRESS"),
        (ApiError(503, error_code="703"), adyen, "AMBIGUOUS"),
        (ApiError(400, errors=[SimpleNamespace(code="IDEMPOTENCY_KEY_REUSED")]), square, "KEY_MISUSE"),
        (ApiError(400, errors=[SimpleNamespace(code="INSUFFICIENT_FUNDS")]), square, "DECLINED"),
        (ApiError(400, errors=[SimpleNamespace(code="INVALID_VALUE")]), square, "REJECTED"),
        (ApiError(500, errors=[SimpleNamespace(code="GENERIC_DECLINE")]), square, "AMBIGUOUS"),
        (ApiError(402, errors=[SimpleNamespace(code="GENERIC_DECLINE")], history=["303"]), square, "AMBIGUOUS"),
        (ApiError(422, code="INSTRUMENT_DECLINED"), paypal, "DECLINED"),
        (ApiError(422, code="DUPLICATE_REQUEST_ID"), paypal, "KEY_MISUSE"),
        (
            stripe_error(functools.partial(stripe_sdk.CardError, param="number"), 402, "card_declined"),
            stripe,
            "DECLINED",
        ),
        (stripe_error(stripe_sdk.APIError, 409, "idempotency_key_in_use"), stripe, "IN_PROGRESS"),
        (stripe_error(stripe_sdk.RateLimitError, 429, "lock_timeout"), stripe, "IN_PROGRESS"),
        (stripe_error(stripe_sdk.RateLimitError, 429), stripe, "THROTTLED"),
        (stripe_error(stripe_sdk.IdempotencyError, 400), stripe, "KEY_MISUSE"),
        (stripe_error(stripe_sdk.StripeError, 400, stripe_should_retry="true"), stripe, "AMBIGUOUS"),
        (stripe_error(stripe_sdk.APIError, 500), stripe, "AMBIGUOUS"),
    ],
)
def test_profiles(error: Exception, profile: Profile | None, kind: str) -> None:
    assert classify(error, profile=profile).value == kind


@pytest.mark.parametrize(
    ("status", "body", "profile", "kind"),
    [
        (400, {"errors": [{"code": "IDEMPOTENCY_KEY_REUSED"}]}, square, "KEY_MISUSE"),
        (402, {"errors": [{"code": "TEMPORARY_ERROR"}]}, square, "AMBIGUOUS"),
        (400, {"errors": [{"code": "CARD_DECLINED"}]}, square, "DECLINED"),
        (500, {"errors": [{"code": "CARD_DECLINED"}]}, square, "AMBIGUOUS"),
        (400, {"errors": [{"code": "INVALID_VALUE"}]}, square, "REJECTED"),
        (422, {"errorCode": "704"}, adyen, "IN_PROGRESS"),
        (422, {"errorCode": "101"}, adyen, "REJECTED"),
        (422, {"details": [{"issue": "DUPLICATE_REQUEST_ID"}]}, paypal, "KEY_MISUSE"),
        (422, {"details": [{"issue": "INSTRUMENT_DECLINED"}]}, paypal, "DECLINED"),
        (400, {"error": {"type": "idempotency_error"}}, stripe, "KEY_MISUSE"),
        (429, {"error": {"code": "lock_timeout"}}, stripe, "IN_PROGRESS"),
        (400, {"error": {"type": "invalid_request_error"}}, stripe, "REJECTED"),
        (400, None, square, "AMBIGUOUS"),
        (422, None, paypal, "AMBIGUOUS"),
    ],
)
def test_profiles_over_a_plain_client(status: int, body: Any, profile: Profile, kind: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=body) if body else httpx.Response(status))
    with httpx.Client(transport=transport) as client, pytest.raises(httpx.HTTPStatusError) as raised:
        client.post("https://api.example").raise_for_status()
    assert classify(raised.value, profile=profile).value == kind


@pytest.mark.parametrize("name", ["codes", "statuses"])
def test_a_profiles_kinds_are_checked_where_they_are_written(name: str) -> None:
    options: dict[str, Any] = {name: {402: "DECLINED"}}
    with pytest.raises(TypeError, match=rf"Profile\({name}=...\) has 'DECLINED'.*: write FailureKind.DECLINED"):
        Profile(**options)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: classify_errors(profile="stripe"), "profile must be a Profile, such as classification.stripe"),  # type: ignore[call-overload]
        (lambda: classify(Mine(), profile="stripe"), "or Profile(...); got 'stripe'"),  # type: ignore[arg-type]
        (lambda: SagaPlugin(classify="stripe"), "profile must be a Profile"),  # type: ignore[arg-type]
        (
            lambda: classify_errors(rules=rule(FailureKind.DECLINED)),  # type: ignore[call-overload]
            "rules must be a list of rules, such as [Rule(...)]; got Rule(",
        ),
        (lambda: classify_errors(rules=[FailureKind.DECLINED]), "which is not a Rule: write Rule(module, name, kind)"),  # type: ignore[list-item]
        (lambda: Profile(rules=rule(FailureKind.DECLINED)), "Profile(rules=...) must be a list of rules"),  # type: ignore[arg-type]
        (lambda: Profile(statuses={"409": FailureKind.DECLINED}), "has '409', which is not an int"),  # type: ignore[dict-item]
        (lambda: Profile(codes={409: FailureKind.DECLINED}), "has 409, which is not a str"),  # type: ignore[dict-item]
    ],
)
def test_a_slip_says_what_to_write(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        wrong()


class RpcError(Exception):
    """Named, and placed, as gRPC's."""

    __module__ = "grpc"

    def code(self) -> Any:
        return SimpleNamespace(name="UNAVAILABLE")


def aws_error(code: str) -> Any:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return type("ClientError", (Exception,), {"__module__": "botocore.exceptions", "response": response})()


@pytest.mark.parametrize(
    ("error", "profile", "message"),
    [
        (Http(402), None, "tests.Http 402"),
        (RpcError(), None, "grpc.RpcError UNAVAILABLE"),
        (RPCError("lost", RPCStatusCode.UNAVAILABLE, b""), None, "temporalio.RPCError UNAVAILABLE"),
        (aws_error("ThrottlingException"), None, "botocore.ClientError 400 ThrottlingException"),
        (aws_error("4242 4242"), None, "botocore.ClientError 400"),  # it may be anything
        (aws_error("Odd"), Profile(codes={"Odd": FailureKind.DECLINED}), "botocore.ClientError 400 Odd"),
        (ConnectionRefusedError("10.0.0.1"), None, "ConnectionRefusedError"),
    ],
)
def test_a_message_shows_the_status_and_a_code_that_is_known(
    error: Exception, profile: Profile | None, message: str
) -> None:
    made = outcome(error, profile=profile)
    assert isinstance(made, ApplicationError)
    assert made.message == message


def test_a_misuse_of_the_fence_goes_on_whatever_the_rules_say() -> None:
    error = FenceMisuse("a commit in the effect")
    assert outcome(error, rules=[Rule("builtins", "RuntimeError", FailureKind.NOT_SENT)]) is error


def test_a_provider_may_say_that_trying_again_is_no_use() -> None:
    for says, final in (("false", True), ("true", False)):
        made = outcome(stripe_error(stripe_sdk.APIError, 500, stripe_should_retry=says), profile=stripe)
        assert isinstance(made, Ambiguous)
        assert made.non_retryable is final


def test_rules_of_the_users_own_come_before_the_profiles() -> None:
    profile = Profile(rules=[rule(FailureKind.DECLINED)], codes={"x": FailureKind.REJECTED})
    assert type(outcome(Mine(), profile=profile)) is Declined
    assert type(outcome(Mine(), profile=profile, rules=[rule(FailureKind.REJECTED)])) is Rejected


def test_what_is_raised_from_another_error_is_judged_by_itself() -> None:
    error = Mine()
    error.__cause__ = ConnectionRefusedError()
    assert classify(error) is FailureKind.BUG
    assert classify(Rejected()) is FailureKind.REJECTED


# --- docs/classify-errors.md


def answers(*replies: Any) -> Any:
    """The page, whose client gets these replies one after another: a status with its headers, or an exception."""
    page = load("classify-errors")
    todo = list(replies)

    def reply(request: httpx.Request) -> httpx.Response:
        what = todo.pop(0)
        if isinstance(what, Exception):
            raise what
        status, headers = what
        return httpx.Response(status, headers=headers)

    client = httpx.AsyncClient(transport=httpx.MockTransport(reply), base_url="https://api.example")
    page.api = lambda: client
    return page


DO = f"charge:do:{UUID(int=1)}"
NO_ONE, SILENCE = httpx.ConnectError("refused"), httpx.ReadTimeout("timed out")


@pytest.mark.parametrize(
    ("replies", "types", "says"),
    [
        ([(402, {})], ["Declined"], "none"),
        ([(429, {"Retry-After": "7"})], ["Throttled"], "none"),
        ([NO_ONE, (402, {})], ["NotSent", "Declined"], "none"),
        ([SILENCE, (402, {})], ["Ambiguous", "Declined"], "unknown"),
    ],
)
async def test_the_pages_first_table(replies: list[Any], types: list[str], says: str) -> None:
    page = answers(*replies)
    attempts = Attempts(activity_id=DO, schedule_to_close_timeout=600 * SECOND)
    failures = [await attempts.run_async(page.charge, "o-1") for _ in replies]
    assert [getattr(failure, "type", None) for failure in failures] == types
    assert effect(failures[-1]) == says
    if types == ["Throttled"]:
        assert isinstance(failures[0], ApplicationError)
        assert failures[0].next_retry_delay == 7 * SECOND


async def test_the_pages_own_rule() -> None:
    page = load("classify-errors")
    assert type(await Attempts().run_async(page.debit, "a-1")) is Declined
    with pytest.raises(Throttled) as busy:
        page.open_account(lambda _: 10**10, "a-1")
    assert busy.value.next_retry_delay == 300 * SECOND
    assert classify(ApiError(423), profile=page.bank) is FailureKind.CONFLICT


def test_the_pages_table_of_kinds() -> None:
    text = (Path(__file__).parents[1] / "docs" / "classify-errors.md").read_text()
    row = re.compile(r"^\| `([A-Z_]+)` \|.*\| (.*) \| (.*) \| (.*) \|$", re.MULTILINE)
    rows = {cells[0]: cells for cells in row.findall(text)}
    assert set(rows) == {kind.value for kind in FailureKind} - {"INFRA"}
    for name, again, says, error in rows.values():
        kind = FailureKind(name)
        assert (again != "no") is kind.retryable, name
        assert says == kind.effect, name
        assert error == (f"`{OURS[kind]}`" if kind in OURS else "as it is"), name
