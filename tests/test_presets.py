"""The presets: their schedules as numbers and as text, what contradicts itself, and the pages about them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import itertools
import json
import math
import re
import time
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import RetryPolicy as EncodedPolicy
from temporalio.api.failure.v1 import Failure
from temporalio.common import RetryPolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_saga import presets
from temporal_saga.presets import Preset
from tests.driver import Activity, Run
from tests.rules.workflows import REFUSED, end
from tests.test_docs import ROOT, blocks, load

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
PRESETS = {name: preset for name, preset in vars(presets).items() if isinstance(preset, Preset)}

# initial, longest, attempts, schedule-to-close, start-to-close, sum of the waits, worst case; in seconds.
NUMBERS: dict[str, tuple[float, float, int, int | None, int, float | None, float | None]] = {
    "no_retry": (1, 1, 1, None, 30, 0, 30),
    "at_most_once": (1, 10, 5, 300, 30, 15, 165),
    "fast": (0.2, 5, 6, 120, 5, 6.2, 36.2),
    "conflict": (0.05, 2, 8, 60, 5, 5.15, 45.15),
    "standard": (1, 30, 8, 600, 30, 91, 331),
    "throttled": (5, 120, 10, 1800, 30, 635, 935),
    "patient": (5, 300, 0, 64_800, 30, 64_515, 64_800),
    "llm": (1, 120, 50, None, 600, 5167, 35_167),
    "forward_only": (1, 120, 0, None, 30, None, None),
    "compensation": (1, 60, 0, None, 30, None, None),
    "compensation_bounded": (1, 60, 60, 7200, 30, 3243, 5043),
}


def seconds(*durations: timedelta) -> list[float]:
    return [each.total_seconds() for each in durations]


def test_these_are_all() -> None:
    assert set(PRESETS) == set(NUMBERS) == set(presets.__all__) - {"Preset", "PresetOptions"}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_each(name: str) -> None:
    preset = PRESETS[name]
    initial, longest, attempts, to_close, one, waits, worst = NUMBERS[name]
    assert preset() == {
        "schedule_to_close_timeout": None if to_close is None else timedelta(seconds=to_close),
        "schedule_to_start_timeout": None,
        "start_to_close_timeout": timedelta(seconds=one),
        "retry_policy": preset.policy,
    }
    assert preset.policy == RetryPolicy(
        initial_interval=timedelta(seconds=initial),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=longest),
        maximum_attempts=attempts,
        non_retryable_error_types=list(preset.non_retryable_error_types) or None,
    )
    assert preset.config() == preset()
    assert preset.worst_case() == (None if worst is None else timedelta(seconds=worst))
    if waits is not None:
        assert sum(preset.delays(), timedelta(0)) == timedelta(seconds=waits)


def test_types_that_are_not_retried() -> None:
    with_types = {name: preset.non_retryable_error_types for name, preset in PRESETS.items()}
    assert {name: types for name, types in with_types.items() if types} == {
        "llm": ("InvalidInput", "AuthenticationError"),
        "at_most_once": (
            "Ambiguous",
            "InProgress",
            "CancelledError",
            "FutureCancelledError",
            "SystemExit",
            "BrokenProcessPool",
            "WorkerShutdown",
            "ActivityPause",
            "ActivityReset",
            "TemporalTimeout:StartToClose",
            "TemporalTimeout:Heartbeat",
        ),
    }


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        grpc.FutureCancelledError(),
        SystemExit(1),
        BrokenProcessPool(),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
async def test_what_at_most_once_knows_by_the_name_that_the_sdk_gives_it(error: BaseException) -> None:
    failure = Failure()
    await DataConverter.default.encode_failure(error, failure)
    assert failure.application_failure_info.type in presets.at_most_once.non_retryable_error_types


# --- the schedule ---


def test_delays_are_the_waits_between_attempts() -> None:
    assert seconds(*presets.standard.delays()) == [1, 2, 4, 8, 16, 30, 30]
    assert list(presets.no_retry.delays()) == []


def test_delays_have_no_end_if_the_preset_has_none() -> None:
    assert seconds(*islice(presets.compensation.delays(), 100)) == [1, 2, 4, 8, 16, 32, *[60] * 94]
    # Far beyond where doubling would overflow.
    assert next(islice(presets.forward_only.delays(), 5000, None)) == 2 * MINUTE


def test_delays_end_where_a_retry_would_start_after_schedule_to_close() -> None:
    def waits(total: float) -> list[float]:
        return seconds(*Preset(SECOND, MINUTE, 0, timedelta(seconds=total), SECOND).delays())

    assert waits(6.9) == [1, 2]
    assert waits(7) == [1, 2, 4]
    assert len(list(presets.patient.delays())) == 220


def test_waits_that_do_not_grow() -> None:
    steady = dataclasses.replace(presets.standard, backoff_coefficient=1)
    assert seconds(*steady.delays()) == [1] * 7


@pytest.mark.parametrize(
    ("preset", "one", "worst"),
    [
        (presets.standard, None, 331),
        (presets.standard, SECOND, 99),
        (presets.standard, 5 * MINUTE, 600),  # schedule-to-close cuts it off
        (presets.forward_only, None, None),
        (presets.forward_only, MINUTE, None),
        (presets.patient, SECOND, 64_736),
        (dataclasses.replace(presets.standard, start_to_close_timeout=None), None, 600),
        # Its second retry would start too late and is not made: it ends after 3 s, not after 10.
        (Preset(SECOND, MINUTE, 5, 10 * SECOND, SECOND, backoff_coefficient=20), None, 3),
    ],
)
def test_worst_case(preset: Preset, one: timedelta | None, worst: float | None) -> None:
    assert preset.worst_case(one) == (None if worst is None else timedelta(seconds=worst))


@given(
    initial=st.integers(1, 50),
    longest=st.integers(50, 200),
    attempts=st.integers(2, 12),
    total=st.none() | st.integers(100, 1000),
    one=st.integers(1, 100),
    durations=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_no_course_of_events_is_worse_than_the_worst_case(
    initial: int, longest: int, attempts: int, total: int | None, one: int, durations: list[float]
) -> None:
    # As the server does it (`nextBackoffInterval`): it waits, and stops where the next attempt would start too late.
    now = 0.0
    for attempt, part in enumerate(durations[:attempts]):
        now += part * one
        if total is not None and now >= total:
            now = total
            break
        wait = min(initial * 2**attempt, longest)
        if attempt + 1 == attempts or (total is not None and now + wait > total):
            break
        now += wait
    limit = None if total is None else total * SECOND
    preset = Preset(initial * SECOND, longest * SECOND, attempts, limit, one * SECOND)
    worst = preset.worst_case()
    assert worst is not None
    assert now <= worst.total_seconds() + 1e-6


# --- the table ---


def test_explain() -> None:
    assert presets.standard.explain().splitlines() == [
        "For an API that honors the step's key. It honors Retry-After.",
        "attempt  wait  elapsed",
        "      1             0s",
        "      2    1s       1s",
        "      3    2s       3s",
        "      4    4s       7s",
        "      5    8s      15s",
        "      6   16s      31s",
        "      7   30s    1m 1s",
        "      8   30s   1m 31s",
        "Gives up after attempt 8.",
        "Elapsed is for attempts that fail at once. If each lasts as long as it may, it",
        "  ends after 5m 31s.",
    ]
    assert presets.patient.explain().splitlines()[-6:] == [
        "      9      5m      15m 15s",
        "    ...",
        "    221      5m  17h 55m 15s",
        "Gives up after attempt 221: the next would start after schedule-to-close, 18h.",
        "Elapsed is for attempts that fail at once. If each lasts as long as it may, it",
        "  ends after 18h.",
    ]
    assert presets.compensation.explain().splitlines()[-4:] == [
        "      9    1m    3m 3s",
        "    ...",
        "Does not give up: a retry every 1m.",
        "Elapsed is for attempts that fail at once.",
    ]
    assert "Not retried: InvalidInput, AuthenticationError." in presets.llm.explain().splitlines()


def parsed(text: str) -> float:
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return round(sum(float(part[:-1]) * units[part[-1]] for part in text.split()), 6)


def test_each_says_in_a_line_what_it_is_for() -> None:
    """Issue 11, F9: nobody takes `throttled` for a Retry-After, or `conflict` for HTTP 409."""
    first = {name: preset.explain().splitlines()[0] for name, preset in PRESETS.items()}
    assert first == {name: preset.purpose for name, preset in PRESETS.items()}
    assert all(line.startswith("For a") and line.endswith(".") for line in first.values())
    assert "Retry-After" in first["standard"]
    assert "`standard`" in first["throttled"]
    assert "Not for HTTP 409" in first["conflict"]
    own = dataclasses.replace(presets.standard, purpose="")
    assert own.explain().splitlines()[0].startswith("attempt")


@given(
    initial=st.integers(1, 10**6),
    longest=st.integers(1, 10**6),
    attempts=st.integers(1, 2500),
    total=st.none() | st.integers(1, 10**8),
    coefficient=st.sampled_from([1, 1.0, 1.0000001, 1.001, 1.1, 1.5, 2, 1e300]),
)
def test_explain_and_worst_case_are_what_the_waits_say(
    initial: int, longest: int, attempts: int, total: int | None, coefficient: float
) -> None:
    """Computed for a schedule of any length; here they are counted one by one."""
    initial, longest = sorted([initial, longest])
    total = total and max(total, initial)
    limit = None if total is None else total * SECOND
    preset = Preset(
        initial * SECOND, longest * SECOND, attempts, limit, SECOND, backoff_coefficient=coefficient, key_window=None
    )
    waits = list(preset.delays())
    worst = sum(waits, SECOND * (len(waits) + 1))
    worst = worst if limit is None else min(worst, limit)
    computed = preset.worst_case()
    assert computed is not None
    text = preset.explain()
    [gives_up] = re.findall(r"Gives up after attempt (\d+)", text)
    if len(waits) <= 1000 or coefficient not in (1.0000001, 1.001):
        assert computed == worst
        assert int(gives_up) == len(waits) + 1
        [*_, last] = re.findall(r"^ *(\d+)(?:  .*)?  +(\S.*)$", text, re.MULTILINE)
        assert int(last[0]) == len(waits) + 1
        assert parsed(last[1]) == pytest.approx(sum(waits, timedelta(0)).total_seconds(), rel=1e-5)
    else:
        assert computed >= worst
        assert int(gives_up) >= len(waits) + 1
        assert "    ..." in text


@pytest.mark.parametrize("coefficient", [1, 1 + 1e-15, 1.000001, 1.01, 2, 1e300])
@pytest.mark.parametrize("total", [None, timedelta(days=400), timedelta(days=36_500)])
@pytest.mark.parametrize("attempts", [0, 2**31 - 1])
@pytest.mark.parametrize("initial", [timedelta(microseconds=1), 5 * SECOND, timedelta(days=36_500)])
def test_explain_takes_no_time_whatever_the_schedule(
    coefficient: float, total: timedelta | None, attempts: int, initial: timedelta
) -> None:
    if total is not None:
        initial = min(initial, total)
    longest = max(initial, 5 * SECOND)
    preset = Preset(initial, longest, attempts, total, backoff_coefficient=coefficient, key_window=None)
    began = time.process_time()
    text = preset.explain()
    assert time.process_time() - began < 0.25
    assert len(text.splitlines()) < 40
    assert preset.worst_case() or (total is None and not attempts)


@pytest.mark.parametrize("name", PRESETS)
def test_each_row_is_what_the_delays_say(name: str) -> None:
    preset = PRESETS[name]
    waits = seconds(*islice(preset.delays(), 300))
    table = preset.explain().splitlines()
    assert all(len(line) <= 80 for line in table)
    columns = re.compile(r" *(\d+)(?:  +([\w.][\w. ]*?))?  +(\S.*)")
    rows = [match for line in table if (match := columns.fullmatch(line))]
    for row in rows:
        attempt = int(row[1])
        assert parsed(row[3]) == round(sum(waits[: attempt - 1]), 6)
        assert (row[2] is None) == (attempt == 1)
        assert row[2] is None or parsed(row[2]) == waits[attempt - 2]
    shown = [int(row[1]) for row in rows]
    whole = shown == list(range(1, len(waits) + 2))
    assert whole or ("    ..." in table and (len(waits) == 300 or shown[-1] == len(waits) + 1))


@pytest.mark.parametrize(
    ("preset", "shown"),
    [
        (Preset(SECOND, SECOND, 3, None), [1, 2, 3]),
        (Preset(SECOND, SECOND, 4, None), [1, 2, 3, 4]),
        (Preset(SECOND, SECOND, 5, None), [1, 2, 3, "...", 5]),
        (Preset(SECOND, SECOND, 0, None), [1, 2, 3, "..."]),
        (Preset(SECOND, MINUTE, 0, None, backoff_coefficient=1), [1, 2, 3, "..."]),
        (Preset(SECOND, MINUTE, 0, 2 * SECOND, SECOND), [1, 2]),
    ],
)
def test_rows_that_say_nothing_new_are_left_out(preset: Preset, shown: list[Any]) -> None:
    first = [line.split()[0] for line in preset.explain().splitlines()[1:] if line.startswith(" ")]
    assert [each for each in first if each in ("...", *"123456789")] == [str(each) for each in shown]


# --- contradictions ---

OWN = Preset(SECOND, MINUTE, 3, 10 * MINUTE)
UNTYPED: Any = presets.standard
QUIET = dataclasses.replace(presets.standard, key_window=None)
UNTYPED_QUIET: Any = QUIET


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schedule_to_close_timeout": 5 * SECOND}, "schedule_to_close_timeout, 5s, is shorter than start_to_close"),
        ({"schedule_to_close_timeout": None, "start_to_close_timeout": None}, "set start_to_close_timeout"),
        ({"schedule_to_close_timeout": timedelta(0)}, "None for no limit"),
        ({"start_to_close_timeout": -SECOND}, "longer than zero"),
        ({"initial_interval": timedelta(0)}, "longer than zero"),
        ({"initial_interval": 2 * MINUTE}, "maximum_interval, 1m, is shorter than initial_interval, 2m"),
        ({"maximum_interval": -SECOND}, "longer than zero"),
        ({"maximum_attempts": -1}, "must be 0 (no limit), 1 (no retry) or more; got -1"),
        ({"backoff_coefficient": 0.5}, "must be 1 (waits that do not grow) or more; got 0.5"),
        ({"initial_interval": 20 * MINUTE, "maximum_interval": 20 * MINUTE}, "set maximum_attempts=1"),
        ({"non_retryable_error_types": ("TemporalTimeout:Start",)}, "TemporalTimeout:StartToClose"),
    ],
)
def test_a_contradiction_is_an_error_where_it_is_written(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        dataclasses.replace(OWN, **change)
    with pytest.raises(ValueError, match=re.escape(says)):
        Preset(**{**dataclasses.asdict(OWN), **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"start_to_close_timeout": 11 * MINUTE}, "schedule_to_close_timeout, 10m, is shorter than start_to_close"),
        (
            {"schedule_to_start_timeout": 11 * MINUTE},
            "schedule_to_close_timeout, 10m, is shorter than schedule_to_start",
        ),
        ({"schedule_to_close_timeout": SECOND}, "schedule_to_close_timeout, 1s, is shorter"),
        ({"schedule_to_close_timeout": None, "start_to_close_timeout": None}, "set start_to_close_timeout"),
        ({"start_to_close_timeout": timedelta(0)}, "longer than zero"),
        ({"retry_policy": RetryPolicy(maximum_interval=SECOND / 2)}, "maximum_interval, 0.5s, is shorter"),
        ({"retry_policy": RetryPolicy(initial_interval=-SECOND)}, "longer than zero"),
        ({"retry_policy": RetryPolicy(maximum_attempts=-1)}, "must be 0 (no limit)"),
        ({"retry_policy": RetryPolicy(backoff_coefficient=0)}, "must be 1 (waits that do not grow)"),
        ({"retry_policy": RetryPolicy(initial_interval=11 * MINUTE)}, "no retry would start within"),
        ({"retry_policy": RetryPolicy(non_retryable_error_types=["TemporalTimeout:"])}, "TemporalTimeout:Heartbeat"),
    ],
)
def test_a_contradiction_is_an_error_where_it_is_called(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        presets.standard(**change)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: presets.standard(start_to_close_timeout=30), "timedelta(seconds=30)"),  # type: ignore[arg-type]
        (
            lambda: dataclasses.replace(OWN, initial_interval=1.5),  # type: ignore[arg-type]
            "timedelta(seconds=1.5)",
        ),
        (
            lambda: dataclasses.replace(OWN, non_retryable_error_types="Declined"),  # type: ignore[arg-type]
            "('Declined',)",
        ),
        (
            lambda: dataclasses.replace(OWN, non_retryable_error_types=(ValueError,)),  # type: ignore[arg-type]
            "must hold names, such as 'ValueError'; got <class 'ValueError'>",
        ),
        *(
            (partial(UNTYPED, **{name: 3}), "dataclasses.replace(presets.standard, maximum_attempts=3)")
            for name in ("maximum_attempts", "max_attempts", "max_retries")
        ),
        (
            partial(UNTYPED, start_to_close=3),
            "start_to_close= is not an option of an activity; did you mean start_to_close_timeout=?",
        ),
    ],
)
def test_a_slip_says_what_to_write(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        wrong()


NUMBERS_OF_ALL_KINDS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.integers(-2, 5)
    | st.floats(-2, 5)
    | st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300])
)
TIMES = st.timedeltas(timedelta(days=-2), timedelta(days=2)) | st.timedeltas()
ANYTHING = st.one_of(
    NUMBERS_OF_ALL_KINDS,
    TIMES,
    st.just(timedelta(0)),
    st.text(max_size=3),
    st.lists(st.text(max_size=3) | st.integers(), max_size=2),
    st.lists(st.text(max_size=3) | st.integers(), max_size=2).map(tuple),
    st.just(Decimal(2)),
    st.builds(dict),
)
FIELDS = {field.name for field in dataclasses.fields(Preset)}
TIMEOUTS = {"schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout"}
POLICY = {field.name for field in dataclasses.fields(RetryPolicy)}


def taken_or_error(make: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the key window, which has tests of its own
            return make()
    except (TypeError, ValueError) as error:
        return error


def check_taken(options: Any) -> None:
    """Options that are taken mean to the server what they say."""
    policy = options["retry_policy"]
    encoded = EncodedPolicy()
    policy.apply_to_proto(encoded)
    # The server's own meaning of no maximum.
    longest = policy.maximum_interval or 100 * policy.initial_interval
    types = list(policy.non_retryable_error_types or ()) or None
    same = dataclasses.replace(policy, maximum_interval=longest, non_retryable_error_types=types)
    assert RetryPolicy.from_proto(encoded) == same
    assert type(policy.maximum_attempts) is int
    assert math.isfinite(policy.backoff_coefficient)
    assert type(policy.backoff_coefficient) in (int, float)
    times = {name: options.get(name) for name in TIMEOUTS}
    for each in (*times.values(), policy.initial_interval, policy.maximum_interval):
        assert each is None or timedelta(0) < each < timedelta(days=292 * 365)
    longest = times["start_to_close_timeout"] or times["schedule_to_close_timeout"]
    assert longest is not None
    overall = times["schedule_to_close_timeout"] or timedelta.max
    assert max(each for each in times.values() if each is not None) <= overall or overall == timedelta.max
    assert (times["heartbeat_timeout"] or timedelta(0)) <= longest
    assert policy.initial_interval <= (policy.maximum_interval or timedelta.max)


@settings(max_examples=300, report_multiple_bugs=False)
@given(name=st.sampled_from(sorted(FIELDS)), value=ANYTHING)
@example("backoff_coefficient", float("nan"))
@example("backoff_coefficient", float("inf"))
@example("backoff_coefficient", True)
@example("maximum_attempts", 2.5)
@example("maximum_attempts", True)
@example("maximum_attempts", 2**31)
@example("key_window", timedelta(0))
@example("maximum_interval", None)
def test_an_option_is_taken_as_it_is_or_an_error_names_it(name: str, value: Any) -> None:
    """Issue 11, F9: nothing that is taken means something else to the server."""
    preset = taken_or_error(lambda: dataclasses.replace(QUIET, **{name: value}))
    if isinstance(preset, Exception):
        assert name in str(preset)
        assert re.search("must |raise |set |lower ", str(preset)), preset  # the fix
    else:
        check_taken(preset())
        assert preset.explain()
        assert getattr(preset, name) == value
        assert isinstance(value, bool) is False


@settings(max_examples=300, report_multiple_bugs=False)
@given(name=st.sampled_from(sorted({*TIMEOUTS, *POLICY})), value=ANYTHING)
@example("heartbeat_timeout", timedelta(seconds=31))
@example("schedule_to_start_timeout", timedelta(minutes=11))
@example("backoff_coefficient", float("nan"))
@example("maximum_attempts", True)
def test_an_option_of_a_call_is_taken_as_it_is_or_an_error_names_it(name: str, value: Any) -> None:
    change = {"retry_policy": RetryPolicy(**{name: value})} if name in POLICY else {name: value}
    options = taken_or_error(lambda: UNTYPED_QUIET(**change))
    if isinstance(options, Exception):
        assert name in str(options)
        assert re.search("must |raise |set |lower ", str(options)), options
    else:
        check_taken(options)
        assert change.items() <= options.items()


def test_two_options_that_are_right_alone_may_contradict_each_other() -> None:
    long, short = 40 * SECOND, 20 * SECOND
    for names in itertools.permutations(sorted(TIMEOUTS), 2):
        options = taken_or_error(partial(UNTYPED_QUIET, **{names[0]: long, names[1]: short}))
        if isinstance(options, Exception):
            assert any(name in str(options) for name in names)
        else:
            check_taken(options)
    with pytest.raises(ValueError, match="heartbeat_timeout, 40s, is longer than start_to_close_timeout, 20s"):
        UNTYPED_QUIET(heartbeat_timeout=long, start_to_close_timeout=short)


# --- the window of a provider's keys ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: presets.patient(schedule_to_close_timeout=timedelta(hours=48)),
        lambda: dataclasses.replace(presets.patient, schedule_to_close_timeout=timedelta(hours=48)),
        lambda: Preset(SECOND, MINUTE, 0, timedelta(hours=48)),
        lambda: dataclasses.replace(presets.patient, key_window=timedelta(minutes=10)),  # DynamoDB
    ],
    ids=["called", "replaced", "made", "a shorter window"],
)
def test_retries_past_a_key_window_are_a_warning_where_they_are_written(make: Callable[[], Any]) -> None:
    with pytest.warns(UserWarning, match=r"goes past key_window, (1d|10m): .* dataclasses\.replace") as warned:
        make()
    [warning] = warned
    assert warning.filename == __file__
    assert warning.lineno == make.__code__.co_firstlineno


def test_the_warning_is_said_once_for_each_line() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        for _ in range(3):
            presets.patient(schedule_to_close_timeout=timedelta(hours=48))
        presets.patient(schedule_to_close_timeout=timedelta(hours=49))
    assert len(warned) == 2


@pytest.mark.filterwarnings("error")
def test_a_choice_of_your_own_silences_it() -> None:
    for window in (timedelta(days=30), timedelta(hours=48), None):
        own = dataclasses.replace(presets.patient, key_window=window)
        assert own(schedule_to_close_timeout=timedelta(hours=48))
        assert dataclasses.replace(own, schedule_to_close_timeout=timedelta(hours=48))()
    for preset in PRESETS.values():
        dataclasses.replace(preset)()
    presets.standard(schedule_to_close_timeout=timedelta(hours=24))


@pytest.mark.parametrize(
    "change",
    [
        {"start_to_close_timeout": 10 * MINUTE},
        {"start_to_close_timeout": None},
        {"schedule_to_close_timeout": None},
        {"schedule_to_start_timeout": MINUTE},
        {"heartbeat_timeout": 30 * SECOND},
        {"summary": "by card", "task_queue": "payments"},
        {"retry_policy": None},
        {"retry_policy": RetryPolicy()},
        {"retry_policy": RetryPolicy(maximum_attempts=1)},
    ],
)
def test_what_is_no_contradiction_goes_through(change: dict[str, Any]) -> None:
    assert presets.standard(**change) == {**presets.standard(), **change}


def test_one_of_your_own_is_a_value() -> None:
    own = dataclasses.replace(OWN, non_retryable_error_types=("Declined",))
    assert own == dataclasses.replace(own)
    assert len({own, dataclasses.replace(own), OWN}) == 2
    assert own.policy.non_retryable_error_types == ["Declined"]
    own.policy.maximum_attempts = 99  # the SDK's policies can be changed: each call gives a new one
    assert own.policy.maximum_attempts == 3


# --- the pages ---


def options_of(call: Activity) -> tuple[float, float, int]:
    command = call.command
    return (
        command.start_to_close_timeout.ToSeconds(),
        command.schedule_to_close_timeout.ToSeconds(),
        command.retry_policy.maximum_attempts,
    )


def test_the_page_has_each_preset_with_its_numbers() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*?) \| (.*?) \| (.*?) \|$", read("retry-presets"), re.MULTILINE)

    def text(duration: timedelta | None) -> str:
        return "no limit" if duration is None else presets._text(duration)

    assert {name: tuple(cells) for name, *cells in rows} == {
        name: (
            str(preset.maximum_attempts or "no limit"),
            text(preset.start_to_close_timeout),
            text(preset.schedule_to_close_timeout),
        )
        for name, preset in PRESETS.items()
    }


def read(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text()


def test_the_page_shows_what_explain_prints() -> None:
    [(_, table)] = blocks(read("retry-presets"), "text")
    assert table == f"{load('retry-presets').STANDARD}\n"


def test_the_page_lays_presets_over_the_sagas() -> None:
    run = Run(load("retry-presets").Purchase, "o-1").autopilot({})
    assert {each.name: options_of(each) for each in run.scheduled} == {
        "charge": (30, 600, 8),
        "print_label": (5, 120, 6),
        "notify": (30, 0, 0),
    }
    run.check()


def test_the_page_changes_one() -> None:
    run = Run(load("retry-presets").Changed, "o-1").autopilot({"charge:do": REFUSED})
    assert run.history == ["charge", "refund"]
    assert options_of(run.scheduled[0]) == (10, 600, 8)
    assert load("retry-presets").MINE.policy.non_retryable_error_types == ["NoSuchAccount"]
    assert end(run) == "ActivityError"
    run.check()


@asynccontextmanager
async def model(*answers: tuple[int, dict[str, str]]) -> AsyncIterator[str]:
    """Serve a model that gives these answers in turn, a status and headers each; the last one for ever."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length
        prompt = json.loads(await reader.readexactly(int(length[1])))["prompt"]
        status, headers = left.pop(0) if len(left) > 1 else left[0]
        body = json.dumps({"answer": f"short: {prompt}"})
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", body]).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/"
    finally:
        server.close()
        await server.wait_closed()


def test_the_page_of_the_llm_says_what_an_attempt_of_it_is() -> None:
    assert "50 attempts of up to\n10 minutes each, with waits from 1 s to 2 minutes" in read("llm")
    assert (presets.llm.maximum_attempts, presets.llm.start_to_close_timeout) == (50, 10 * MINUTE)
    assert (presets.llm.initial_interval, presets.llm.maximum_interval) == (SECOND, 2 * MINUTE)


async def test_the_model_of_the_page_answers() -> None:
    page = load("llm")
    async with model((200, {})) as url:
        assert (
            await ActivityEnvironment().run(page.Clerk(page.Model(url)).summarize, "rain") == "short: Summarize: rain"
        )


@pytest.mark.parametrize(
    ("status", "headers", "type", "delay", "final"),
    [
        (429, {}, "Throttled", None, False),
        (429, {"retry-after": "300"}, "Throttled", 300, False),
        (503, {"retry-after": "40"}, "Throttled", 40, False),
        *[(status, {}, "Ambiguous", None, False) for status in (500, 502, 503, 504, 529)],
        *[(status, {}, "AuthenticationError", None, True) for status in (401, 403)],
        *[(status, {}, "Rejected", None, True) for status in (400, 413, 422)],
    ],
)
async def test_what_becomes_of_a_models_refusal(
    status: int, headers: dict[str, str], type: str, delay: int | None, final: bool
) -> None:
    page = load("llm")
    async with model((status, headers)) as url:
        with pytest.raises(ApplicationError) as error:
            await ActivityEnvironment().run(page.Clerk(page.Model(url)).summarize, "rain")
    assert error.value.type == type
    assert error.value.next_retry_delay == (None if delay is None else delay * SECOND)
    assert error.value.non_retryable == final


async def test_what_becomes_of_bad_input_to_a_model() -> None:
    page = load("llm")
    with pytest.raises(ApplicationError) as error:
        await ActivityEnvironment().run(page.Clerk(page.Model("")).summarize, "")
    assert error.value.type in presets.llm.non_retryable_error_types
