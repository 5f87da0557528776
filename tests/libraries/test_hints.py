"""What says that a refusal is for now, or for good, beside its status; and how long to wait. With the real clients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import requests
import stripe
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from temporal_saga.classification import classify, classify_errors
from temporal_saga.classification._read import kind_of, retry_hint
from temporal_saga.errors import ActivityFailure, FailureKind
from tests.libraries.calls import failure
from tests.libraries.servers import Servers, serve

K = FailureKind


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


def with_httpx(url: str) -> None:
    httpx.post(url).raise_for_status()


def with_requests(url: str) -> None:
    requests.post(url, timeout=20).raise_for_status()


def with_openai(url: str) -> None:
    openai = pytest.importorskip("openai")
    openai.OpenAI(api_key="x", base_url=url, max_retries=0).post("", cast_to=object)


def with_azure(url: str) -> None:
    azure = pytest.importorskip("azure.core.rest")
    client = pytest.importorskip("azure.core").PipelineClient(url, policies=[])
    client.send_request(azure.HttpRequest("POST", url)).raise_for_status()


def with_google(url: str) -> None:
    exceptions = pytest.importorskip("google.api_core.exceptions")
    raise exceptions.from_http_response(requests.post(url, timeout=20))


def told(servers: Servers, status: int, body: object, query: str = "") -> str:
    return f"{servers.url}/json/{status}/{json.dumps(body).encode().hex()}?{query}"


def outcome(error: Exception) -> ActivityFailure:
    @activity.defn
    @classify_errors
    def raises() -> None:
        raise error

    with pytest.raises(ActivityFailure) as raised:
        ActivityEnvironment().run(raises)
    return raised.value


HTTP = pytest.mark.parametrize("call", [with_httpx, with_requests], ids=["httpx", "requests"])
HTTP_AND_OPENAI = pytest.mark.parametrize("call", [with_httpx, with_requests, with_openai])


@HTTP_AND_OPENAI
@pytest.mark.parametrize(
    ("code", "is_final"),
    [
        ("insufficient_quota", True),
        ("credit_balance_exhausted", True),
        ("billing_not_active", True),
        ("billing_hard_limit_reached", True),
        ("spend_limit_exceeded", True),
        ("rate_limit_exceeded", False),
        ("tokens", False),
    ],
)
@pytest.mark.parametrize("where", ["code", "type"])
def test_no_wait_helps_an_account_without_money(
    call: Callable[[str], None], code: str, is_final: bool, where: str, servers: Servers
) -> None:
    body = {"error": {"message": "no", "code": None, "type": "requests", where: code}}
    made = outcome(failure(call, told(servers, 429, body, "Retry-After=1")))
    assert made.non_retryable is is_final
    assert (code in made.message) is is_final  # whoever looks sees why


def test_an_earlier_try_of_the_clients_own_does_not_make_it_worth_another() -> None:
    """Its effect is unknown, but the limit stays."""

    class Limited(Exception):
        pass

    error = Limited()
    vars(error).update(status_code=429, headers={}, code="insufficient_quota", history=["an answer before"])
    assert kind_of(error, (), {}) is K.AMBIGUOUS
    assert outcome(error).non_retryable


@HTTP
@pytest.mark.parametrize(
    ("status", "query", "expected"),
    [
        (403, "Retry-After=7", K.THROTTLED),
        (403, "retry-after-ms=7000", K.THROTTLED),
        (403, "x-ms-retry-after-ms=7000", K.THROTTLED),
        (403, "x-ratelimit-remaining=0", K.THROTTLED),
        (403, "x-ratelimit-remaining=10", K.AUTH),
        (403, "Retry-After=soon", K.AUTH),
        (403, "", K.AUTH),
        (401, "Retry-After=7", K.AUTH),
        (500, "x-ratelimit-remaining=0", K.AMBIGUOUS),
        (503, "x-ratelimit-remaining=0", K.AMBIGUOUS),
    ],
)
def test_a_403_that_says_when_is_throttled(
    call: Callable[[str], None], status: int, query: str, expected: FailureKind, servers: Servers
) -> None:
    error = failure(call, told(servers, status, {"message": "secondary rate limit"}, query))
    assert kind_of(error, (), {}) is expected
    assert retry_hint(error) == (timedelta(seconds=7) if "7" in query else None)


@HTTP
def test_github_says_when_its_hour_begins(call: Callable[[str], None], servers: Servers) -> None:
    reset = int(time.time()) + 3000
    error = failure(call, told(servers, 403, {}, f"x-ratelimit-remaining=0&x-ratelimit-reset={reset}"))
    hint = retry_hint(error)
    assert hint is not None
    assert timedelta(seconds=2900) < hint <= timedelta(seconds=3000)
    for odd in (f"x-ratelimit-remaining=1&x-ratelimit-reset={reset}", "x-ratelimit-remaining=0&x-ratelimit-reset=30"):
        assert retry_hint(failure(call, told(servers, 403, {}, odd))) is None


HTTP_AND_GOOGLE = pytest.mark.parametrize("call", [with_httpx, with_requests, with_google])


@HTTP
@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("rateLimitExceeded", K.THROTTLED),
        ("userRateLimitExceeded", K.THROTTLED),
        ("dailyLimitExceeded", K.AUTH),
        ("insufficientPermissions", K.AUTH),
    ],
)
def test_googles_403_is_what_its_reason_says(
    call: Callable[[str], None], reason: str, expected: FailureKind, servers: Servers
) -> None:
    body = {"error": {"code": 403, "errors": [{"domain": "usageLimits", "reason": reason}], "message": "no"}}
    assert kind_of(failure(call, told(servers, 403, body)), (), {}) is expected
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"}
    body = {"error": {"code": 403, "details": [info], "message": "no"}}
    assert kind_of(failure(call, told(servers, 403, body)), (), {}) is K.THROTTLED


@HTTP_AND_GOOGLE
@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        ("3.5s", timedelta(seconds=3.5)),
        ("3600s", timedelta(hours=1)),
        ("0s", None),
        ("-1s", None),
        ("soon", None),
        (3, None),
        (None, None),
    ],
)
def test_retry_info_in_json(
    call: Callable[[str], None], delay: Any, expected: timedelta | None, servers: Servers
) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    other = {"@type": "type.googleapis.com/google.rpc.Help", "retryDelay": "9s"}
    body = {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED", "details": [other, info]}}
    assert retry_hint(failure(call, told(servers, 429, body))) == expected


@pytest.mark.parametrize(
    "body", [[], {}, 1, None, {"error": []}, {"error": {"details": {}, "errors": 3}}, {"errors": [1]}, "x"], ids=repr
)
@HTTP
def test_an_answer_of_another_form_says_nothing(call: Callable[[str], None], body: object, servers: Servers) -> None:
    error = failure(call, told(servers, 403, body))
    assert (kind_of(error, (), {}), retry_hint(error)) == (K.AUTH, None)


@pytest.mark.parametrize("name", ["retry-after-ms", "x-ms-retry-after-ms"])
@pytest.mark.parametrize("call", [with_httpx, with_requests, with_openai, with_azure])
def test_milliseconds(call: Callable[[str], None], name: str, servers: Servers) -> None:
    error = failure(call, told(servers, 429, {}, f"{name}=1500&Retry-After=2"))
    assert retry_hint(error) == timedelta(seconds=1.5)


@HTTP
@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"])
def test_each_form_of_a_date(call: Callable[[str], None], form: str, servers: Servers) -> None:
    """RFC 9110, 5.6.7: a recipient reads all three."""
    date = time.strftime(form, time.gmtime(time.time() + 600)).replace(" ", "%20")
    hint = retry_hint(failure(call, told(servers, 429, {}, f"Retry-After={date}")))
    assert hint is not None
    assert timedelta(minutes=9) < hint <= timedelta(minutes=10)


@pytest.mark.parametrize("status", [409, 429])
@pytest.mark.parametrize("code", ["idempotency_key_in_use", "lock_timeout"])
def test_stripe_works_on_the_same_object(code: str, status: int, servers: Servers) -> None:
    """Whatever the status: stripe-python does not put the code of a 429 on its exception, only the answer."""
    body = {"error": {"type": "invalid_request_error", "code": code, "message": "no"}}
    api = stripe.StripeClient("k", base_addresses={"api": told(servers, status, body, "x=")}, max_network_retries=0)
    error = failure(lambda _: api.v1.payment_intents.create({"amount": 1, "currency": "eur"}), "")
    assert classify(error) is K.IN_PROGRESS
