"""Reads when, and whether, the other side wants another request.

No library is imported: exceptions are read by attribute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, cast

__all__ = [
    "errors_of",
    "is_spent",
    "is_throttled",
    "parsed",
    "wait_of_errors",
    "wait_of_headers",
    "wait_of_rpc",
    "wait_of_used_up_limit",
]

_LONGEST_BODY = 100_000  # the longest body of an error that is parsed

# OpenAI, Azure: `retry-after-ms`; Azure's Cosmos DB: `x-ms-retry-after-ms`. Both are finer than Retry-After.
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after")

# https://cloud.google.com/apis/design/errors, and the older form of their JSON APIs. They come with 403 and with 429.
# `dailyLimitExceeded` and `quotaExceeded` do not pass within the time of a step.
_THROTTLED_REASONS = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"})

# OpenAI's codes, which others have copied. The account has no money, or its owner's limit is reached. The status is
# 429, and waiting does not help.
_SPENT = re.compile(
    "insufficient_quota|credit_balance|billing_(hard_limit|not_active)|spend(ing)?_limit", re.IGNORECASE
)


def wait_of_headers(headers: Mapping[str, str]) -> timedelta | None:
    """Return the wait that an answer's headers ask for; negative for a date in the past. Names are in lower case."""
    for name, unit in ((each, 0.001) for each in _MILLISECONDS):
        wait = _number(headers.get(name, ""), unit)
        if wait is not None:
            return wait
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    wait = _number(text, 1.0)
    return _until(text) if wait is None else wait


def wait_of_used_up_limit(headers: Mapping[str, str]) -> timedelta | None:
    """Return the time until a used-up limit is reset. GitHub's hourly limit has no Retry-After."""
    reset = headers.get("x-ratelimit-reset", "").strip()
    if not _is_used_up(headers) or not re.fullmatch(r"\d{10}", reset, re.ASCII):  # others say seconds, or a date
        return None
    return datetime.fromtimestamp(int(reset), timezone.utc) - datetime.now(timezone.utc)  # noqa: TID251


def _is_used_up(headers: Mapping[str, str]) -> bool:
    # https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    return headers.get("x-ratelimit-remaining", "").strip() == "0"


def is_throttled(status: int | None, headers: Mapping[str, str], errors: Iterable[Mapping[str, object]]) -> bool:
    """Tell whether an answer refuses only for now, although its status alone says something else.

    Args:
        status: The status of the answer.
        headers: The headers of the answer, with names in lower case.
        errors: The result of `errors_of`.
    """
    if status in (403, 503) and wait_of_headers(headers) is not None:
        return True
    if status == 403 and _is_used_up(headers):
        return True
    return status == 403 and any(each.get("reason") in _THROTTLED_REASONS for each in errors)


def is_spent(code: str | None) -> bool:
    """Tell whether a provider's code says that the account has no money left, or may spend no more."""
    return code is not None and _SPENT.search(code) is not None


def errors_of(exception: BaseException) -> Iterator[Mapping[str, object]]:
    """Yield the objects in a JSON answer that say what went wrong: Google's `errors` and `details`."""
    # The answer as a client has read it, or as google-api-core, google-genai and google-api-python-client keep it.
    answers = (
        parsed(getattr(getattr(exception, "response", None), "_content", None)),
        parsed(getattr(exception, "content", None)),
        getattr(exception, "body", None),
        getattr(exception, "details", None),
        getattr(exception, "error_details", None),
        getattr(exception, "errors", None),
    )
    for answer in answers:
        yield from _listed(answer)
        if isinstance(answer, Mapping):
            answer = cast("Mapping[str, object]", answer)
            error = answer.get("error", answer)
            if isinstance(error, Mapping):
                error = cast("Mapping[str, object]", error)
                yield from _listed(error.get("details"))
                yield from _listed(error.get("errors"))


def parsed(content: object) -> object:
    """Return the value of a JSON text in bytes; None if `content` is not one, or is too long."""
    if not isinstance(content, bytes) or not 0 < len(content) <= _LONGEST_BODY:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def wait_of_errors(errors: Iterable[Mapping[str, object]]) -> timedelta | None:
    """Return the wait of the `google.rpc.RetryInfo` among the errors of an answer in JSON."""
    for each in errors:
        if str(each.get("@type", "")).endswith("google.rpc.RetryInfo"):
            delay = each.get("retryDelay")
            if isinstance(delay, str) and delay.endswith("s"):
                return _number(delay[:-1], 1.0)
    return None


def wait_of_rpc(exception: BaseException) -> timedelta | None:
    """Return the wait that the answer to a gRPC call asks for."""
    # google-api-core has the decoded messages, and temporalio's RPCError has the status.
    own = getattr(exception, "details", None)
    for each in cast("list[object]", own) if isinstance(own, list) else ():
        delay = getattr(each, "retry_delay", None)
        if delay is not None:
            return _duration(delay)
    of_temporal = getattr(exception, "grpc_status", None)
    if of_temporal is not None:
        return _wait_of_status(of_temporal)
    metadata = getattr(exception, "trailing_metadata", None)
    pairs = dict(cast("Iterable[tuple[str, Any]]", (metadata() if callable(metadata) else metadata) or ()))
    pushback = pairs.get("grpc-retry-pushback-ms")  # gRPC A6, "Pushback"
    if pushback is not None:
        return _number(str(pushback), 0.001)
    status = pairs.get("grpc-status-details-bin")
    if not isinstance(status, bytes):
        return None
    # The same message as google.rpc.Status, under Temporal's own name.
    from temporalio.api.common.v1 import GrpcStatus

    return _wait_of_status(GrpcStatus.FromString(status))


def _wait_of_status(status: Any) -> timedelta | None:
    from google.protobuf.duration_pb2 import Duration

    for each in status.details:
        value = each.value
        # The message has one field, the delay: its tag, its length, and a Duration, which is shorter than 128 bytes.
        if each.type_url.endswith("/google.rpc.RetryInfo") and value[:1] == b"\n" and len(value) == value[1] + 2:
            return _duration(Duration.FromString(value[2:]))
    return None


def _duration(delay: Any) -> timedelta:
    return _seconds(delay.seconds + delay.nanos / 1e9)


def _listed(value: object) -> Iterator[Mapping[str, object]]:
    for each in cast("list[object]", value) if isinstance(value, list) else ():
        if isinstance(each, Mapping):
            yield cast("Mapping[str, object]", each)


def _number(text: str, unit: float) -> timedelta | None:
    text = text.strip()
    return _seconds(float(text) * unit) if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) else None


def _seconds(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        return timedelta.max


def _until(date: str) -> timedelta | None:
    try:
        then = parsedate_to_datetime(date)
    except ValueError:
        return None
    if then.tzinfo is None:  # "-0000": in RFC 5322, UTC from an unknown place
        then = then.replace(tzinfo=timezone.utc)
    return then - datetime.now(timezone.utc)  # noqa: TID251  # in an activity
