"""How exceptions are matched, unwrapped and read; and that no library is imported for it."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import importlib
import subprocess
import sys
import urllib.error
import warnings
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any, cast

import httpx
import pytest
import requests
import sqlalchemy.exc
import stripe
import urllib3.exceptions
from temporalio.exceptions import CancelledError

from temporal_saga.classification import Rule
from temporal_saga.classification._libraries import LIBRARIES, Library, Repeats
from temporal_saga.classification._read import (
    code_of,
    headers_of,
    hides_code,
    kind_of,
    match_rule,
    retry_hint,
    status_of,
)
from temporal_saga.errors import FailureKind

K = FailureKind
CardError: Any = stripe.CardError  # whose constructor has no types
BUG = FailureKind.BUG


class ApiError(Exception):
    """As a provider's SDK has them: a status next to the headers of the response, and a code."""

    def __init__(self, status: Any = 500, headers: Any = None, **more: Any) -> None:
        super().__init__("no")
        self.status_code = status
        self.headers = {} if headers is None else headers
        vars(self).update(more)


class CardApiError(ApiError):
    pass


def kind_by_rule(error: BaseException, rules: list[Rule]) -> FailureKind | None:
    rule = match_rule(error, rules)
    return None if rule is None else rule.kind


def kind_of_one(error: BaseException, statuses: Mapping[int, FailureKind] | None = None) -> FailureKind:
    """The kind, if the user says that the client sends one request a call."""
    return kind_of(error, (), statuses or {}, client_retries=False)


def with_headers(**headers: Any) -> ApiError:
    return ApiError(503, {name.replace("_", "-"): value for name, value in headers.items()})


# --- what is known, and what is not ---


PYTHONS_OWN = {
    "refused": (ConnectionRefusedError(), K.NOT_SENT),
    "reset": (ConnectionResetError(), K.AMBIGUOUS),
    "aborted": (ConnectionAbortedError(), K.AMBIGUOUS),
    "pipe": (BrokenPipeError(), K.AMBIGUOUS),
    "timeout": (TimeoutError(), K.AMBIGUOUS),
    "asyncio-timeout": (asyncio.TimeoutError(), K.AMBIGUOUS),
    "futures-timeout": (concurrent.futures.TimeoutError(), K.AMBIGUOUS),
    "executor": (concurrent.futures.BrokenExecutor(), K.AMBIGUOUS),
    "eof": (EOFError(), K.AMBIGUOUS),
    "asyncio-eof": (asyncio.IncompleteReadError(b"", 1), K.AMBIGUOUS),
    "subprocess-timeout": (subprocess.TimeoutExpired("x", 1), K.AMBIGUOUS),
    "asyncio-cancelled": (asyncio.CancelledError(), K.CANCELLED),
    "futures-cancelled": (concurrent.futures.CancelledError(), K.CANCELLED),
    "temporal-cancelled": (CancelledError(), K.CANCELLED),
}


@pytest.mark.parametrize(("error", "expected"), PYTHONS_OWN.values(), ids=PYTHONS_OWN)
def test_pythons_own(error: BaseException, expected: FailureKind) -> None:
    assert kind_of(error, (), {}) is expected


# Also what looks definite: it may come from a file or a lock, after the effect.
@pytest.mark.parametrize(
    "error",
    [
        Exception(),
        ValueError(),
        TypeError(),
        KeyError(),
        AssertionError(),
        NotImplementedError(),
        RecursionError(),
        OSError(),
        OSError(113, "no route"),
        PermissionError(),
        FileNotFoundError(),
        FileExistsError(),
        BlockingIOError(),
        subprocess.CalledProcessError(1, "x"),
    ],
    ids=repr,
)
def test_what_is_not_known_is_a_bug(error: Exception) -> None:
    assert kind_of(error, (), {}) is BUG


def test_nothing_unknown_is_ever_proof() -> None:
    for name, each in vars(builtins).items():
        if isinstance(each, type) and issubclass(each, Exception) and not issubclass(each, UnicodeError):
            group = name in ("BaseExceptionGroup", "ExceptionGroup")
            error = each("x", [ConnectionRefusedError()]) if group else each()
            expected = "none" if name == "ConnectionRefusedError" else "unknown"
            assert kind_of(error, (), {}).effect == expected, name


# --- rules ---


def test_the_nearest_class_decides_and_then_the_first_rule() -> None:
    rules = [Rule(__name__, "ApiError", K.REJECTED), Rule(__name__, "CardApiError", K.DECLINED)]
    assert kind_by_rule(CardApiError(), rules) is K.DECLINED
    assert kind_by_rule(ApiError(), rules) is K.REJECTED
    assert kind_by_rule(CardApiError(), rules[:1]) is K.REJECTED
    assert kind_by_rule(CardApiError(), [Rule(__name__, "ApiError", K.AUTH), *rules[:1]]) is K.AUTH
    assert kind_by_rule(ValueError(), rules) is None


def test_a_module_is_its_own_or_a_package_around_it() -> None:
    error = CardApiError()
    for module in (__name__, *(__name__.rsplit(".", n)[0] for n in range(1, __name__.count(".") + 1))):
        assert kind_by_rule(error, [Rule(module, "CardApiError", K.DECLINED)]) is K.DECLINED
    for module in (f"{__name__}.more", __name__[:-1], "", "other"):
        assert kind_by_rule(error, [Rule(module, "CardApiError", K.DECLINED)]) is None


def test_the_users_rules_come_first() -> None:
    error = httpx.ConnectError("no")
    assert kind_of(error, (), {}) is K.NOT_SENT
    assert kind_of(error, [Rule("httpx", "ConnectError", K.REJECTED)], {}) is K.REJECTED
    assert kind_of(error, [Rule("builtins", "Exception", K.REJECTED)], {}) is K.REJECTED
    assert kind_of(ConnectionRefusedError(), [Rule("builtins", "OSError", K.AUTH)], {}) is K.AUTH


def test_the_users_rules_reach_what_a_library_has_wrapped() -> None:
    error = sqlalchemy.exc.DBAPIError("INSERT", None, CardApiError())
    assert kind_of(error, [Rule(__name__, "CardApiError", K.DECLINED)], {}) is K.DECLINED


# The cause is what was hidden on purpose: what was raised may come after other effects.
def test_a_cause_is_not_looked_at() -> None:
    error = ValueError("no")
    error.__cause__ = httpx.ConnectError("refused")
    assert kind_of(error, (), {}) is BUG


@pytest.mark.parametrize("kind", ["DECLINED", None, Rule], ids=repr)
def test_a_kind_is_checked_where_it_is_written(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"Rule\('stripe', 'CardError'\) .* write FailureKind.DECLINED"):
        Rule("stripe", "CardError", kind)


@pytest.mark.parametrize("module", [None, 5])
def test_a_class_whose_module_is_no_text(module: Any) -> None:
    error = type("Odd", (ApiError,), {"__module__": module})(402)
    assert kind_by_rule(error, [Rule("odd", "Odd", K.REJECTED)]) is None
    assert kind_by_rule(error, [Rule(__name__, "ApiError", K.REJECTED)]) is K.REJECTED
    assert kind_of_one(error) is K.DECLINED
    error = type("ConnectError", (Exception,), {"__module__": module})()
    assert kind_of_one(error) is BUG


# Snowflake's driver has 08001 for each answer that is not 200, a gateway's 504 among them.
def test_a_state_of_a_class_that_no_table_knows_is_no_proof_that_nothing_was_sent() -> None:
    class Unknown(Exception):
        sqlstate = "08001"

    assert kind_of_one(Unknown()) is K.AMBIGUOUS
    Unknown.sqlstate = "40001"
    assert kind_of_one(Unknown()) is K.CONFLICT


def test_classes_of_the_same_name_elsewhere_are_not_meant() -> None:
    class ConnectError(Exception):
        pass

    assert kind_of(ConnectError(), (), {}) is BUG


HOMES = {
    "aiokafka": "aiokafka.errors",
    "Adyen": "Adyen.exceptions",
    "aiohttp": "aiohttp.client_exceptions",
    "azure": "azure.core.exceptions",
    "botocore": "botocore.exceptions",
    "django.db.utils": "django.db.utils",
    "elastic_transport": "elastic_transport elasticsearch",
    "elasticsearch": "elastic_transport elasticsearch",
    "google.api_core": "google.api_core.exceptions",
    "google.auth": "google.auth.exceptions",
    "google.genai": "google.genai.errors",
    "grpclib": "grpclib.exceptions",
    "hvac": "hvac.exceptions",
    "kafka": "kafka.errors",
    "kubernetes": "kubernetes.client.exceptions",
    "nats": "nats.errors nats.js.errors",
    "opensearchpy": "opensearchpy.exceptions",
    "paramiko": "paramiko.ssh_exception",
    "pika": "pika.exceptions pika.adapters.utils.connection_workflow",
    "psycopg": "psycopg.errors",
    "pymongo": "pymongo.errors",
    "redis": "redis.exceptions",
    "requests": "requests.exceptions",
    "sqlalchemy": "sqlalchemy.exc sqlalchemy.orm.exc",
    "square": "square.core.api_error",
    "temporalio": "temporalio.service temporalio.exceptions",
    "twilio": "twilio.base.exceptions",
    "urllib3": "urllib3.exceptions",
    "valkey": "valkey.exceptions",
    "braintree": "braintree.exceptions braintree.exceptions.braintree_error braintree.exceptions.http.connection_error "
    "braintree.exceptions.http.timeout_error",
    "zeep": "zeep.exceptions",
}
"""Where a package keeps its exceptions, if that is not the package itself."""


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.packages.split()[0])
def test_every_class_in_a_row_exists(library: Library) -> None:
    """Of what is installed here. A renamed class would be a BUG from then on, in silence."""
    modules = []
    for package in library.packages.split():
        for home in HOMES.get(package, package).split():
            with contextlib.suppress(ModuleNotFoundError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs
                modules.append(importlib.import_module(home))
    if not modules:
        pytest.skip("not installed")
    for _, names in library.classes:
        for name in names.split():
            found = [getattr(module, name) for module in modules if hasattr(module, name)]
            assert found, name
            assert all(issubclass(each, BaseException) and each.__name__ == name for each in found)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.packages.split()[0])
def test_a_library_that_repeats_requests_proves_nothing_by_its_row_alone(library: Library) -> None:
    """Proof needs evidence, or a switch that the user has turned. A row that repeats says what, and how to stop it."""
    assert (library.repeats is Repeats.NO) == (not library.switch) == (not library.why)
    assert not (library.repeats is Repeats.NO and library.evidence)
    for means, names in library.classes:
        for name in names.split():
            error = type(name, (Exception,), {"__module__": library.packages.split()[0]})()
            kinds = [kind_of(error, (), {}, client_retries=told) for told in (None, False, True)]
            if isinstance(means, FailureKind) and means.effect == "none":
                is_first = name in library.before.split()
                assert (kinds[0] is means) == (library.repeats is not Repeats.YES or is_first), name
                assert kinds[1] is means, name
                assert (kinds[2] is means) == is_first, name
            else:
                assert kinds[2].effect == "unknown", name


def test_no_class_is_in_two_rows() -> None:
    seen = Counter(
        (package, name)
        for library in LIBRARIES
        for package in library.packages.split()
        for _, names in library.classes
        for name in names.split()
    )
    assert [each for each, count in seen.items() if count > 1] == []


# --- a status ---


def test_a_status_needs_headers_or_a_response() -> None:
    error = ApiError(402)
    assert (status_of(error), kind_of_one(error)) == (402, K.DECLINED)
    del error.headers
    assert (status_of(error), kind_of_one(error)) == (None, BUG)
    vars(error)["response"] = httpx.Response(409)
    assert (status_of(error), kind_of_one(error)) == (409, K.REJECTED)
    assert kind_of_one(error, {409: K.IN_PROGRESS}) is K.IN_PROGRESS


@pytest.mark.parametrize("status", [None, "", "402", True, 0, 42, 600, -402, 402.0, object], ids=str)
def test_what_is_no_status(status: Any) -> None:
    assert status_of(ApiError(status)) is None
    assert kind_of(ApiError(status), (), {}) is BUG


@pytest.mark.parametrize(
    ("status", "expected"),
    [(100, K.AMBIGUOUS), (200, K.AMBIGUOUS), (204, K.AMBIGUOUS), (302, BUG), (418, K.REJECTED), (599, K.AMBIGUOUS)],
)
def test_statuses_that_no_one_expects(status: int, expected: FailureKind) -> None:
    assert kind_of_one(ApiError(status)) is expected


def test_codes() -> None:
    class Part:
        code = "IDEMPOTENCY_KEY_REUSED"

    assert code_of(CardError("no", None, "card_declined")) == "card_declined"
    assert code_of(ApiError(error_code="704")) == "704"
    assert code_of(ApiError(errors=[Part()])) == "IDEMPOTENCY_KEY_REUSED"
    assert code_of(ApiError(errors=[])) is None
    assert code_of(ApiError(code=14)) is None
    assert code_of(ValueError()) is None


BODIES: dict[str, Any] = {
    "IDEMPOTENCY_KEY_REUSED": {"errors": [{"category": "x", "code": "IDEMPOTENCY_KEY_REUSED"}]},
    "704": {"status": 422, "errorCode": "704"},
    "DUPLICATE_REQUEST_ID": {"name": "x", "details": [{"issue": "DUPLICATE_REQUEST_ID"}]},
    "lock_timeout": {"error": {"type": "invalid_request_error", "code": "lock_timeout"}},
    "idempotency_error": {"error": {"type": "idempotency_error", "code": None}},
}


@pytest.mark.parametrize("code", BODIES)
def test_the_code_in_a_body_that_was_read(code: str) -> None:
    error = ApiError(400, response=httpx.Response(400, json=BODIES[code]))
    assert code_of(error) == code
    assert not hides_code(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"no", b"\xff", b"[" * 50_000, b'["704"]', b'{"errorCode": "' + b"7" * 100_000 + b'"}'],
    ids=["empty", "text", "bytes", "deep", "list", "long"],
)
def test_a_body_that_has_no_code(content: bytes) -> None:
    error = ApiError(400, response=httpx.Response(400, content=content))
    assert code_of(error) is None
    assert hides_code(error)


def test_where_a_code_would_be() -> None:
    for shows in (ApiError(code=None), ApiError(error_code=None), ApiError(errors=[]), ApiError(response={})):
        assert not hides_code(shows)
    for hides in (ApiError(), ApiError(code=400), ApiError(response=httpx.Response(400, json=[])), ValueError()):
        assert hides_code(hides)


def test_stripe() -> None:
    def error(make: Any, status: int | None, *parameter: None) -> Exception:
        return cast("Exception", make("no", *parameter, http_status=status, headers={"request-id": "r"}))

    expected = [
        (error(stripe.CardError, 402, None, None), K.DECLINED),
        (error(stripe.InvalidRequestError, 400, None), K.REJECTED),
        (error(stripe.IdempotencyError, 400), K.KEY_MISUSE),
        (error(stripe.RateLimitError, 400), K.THROTTLED),
        (error(stripe.AuthenticationError, 401), K.AUTH),
        (error(stripe.PermissionError, 403), K.AUTH),
        (error(stripe.APIError, 500), K.AMBIGUOUS),
        (error(stripe.APIError, 409), K.REJECTED),
        (error(stripe.APIConnectionError, None), K.AMBIGUOUS),
    ]
    assert [(type(each), kind_of_one(each)) for each, _ in expected] == [(type(each), k) for each, k in expected]


# --- wrappers ---


def test_wrappers_that_wrap_nothing_known() -> None:
    assert kind_of(requests.ConnectionError(), (), {}) is K.AMBIGUOUS
    assert kind_of(requests.ConnectionError("text"), (), {}) is K.AMBIGUOUS
    assert kind_of(requests.ConnectionError(ValueError()), (), {}) is K.AMBIGUOUS
    assert kind_of(requests.HTTPError("without a response"), (), {}) is K.AMBIGUOUS
    assert kind_of(urllib.error.URLError("unknown url type"), (), {}) is BUG
    assert kind_of(urllib.error.URLError(OSError(113, "no route")), (), {}) is K.AMBIGUOUS
    assert kind_of(sqlalchemy.exc.DBAPIError("INSERT", None, ValueError()), (), {}) is BUG
    lost = sqlalchemy.exc.DBAPIError("INSERT", None, ValueError(), connection_invalidated=True)
    assert kind_of(lost, (), {}) is K.AMBIGUOUS


# requests' own retries: the last of them hides the others.
def test_the_last_of_several_tries_proves_nothing() -> None:
    many = urllib3.exceptions.MaxRetryError(cast("Any", None), "/", urllib3.exceptions.ResponseError("too many 429s"))
    assert kind_of(requests.exceptions.RetryError(many), (), {}) is K.AMBIGUOUS
    assert kind_of(many, (), {}) is K.AMBIGUOUS


def test_an_exception_that_cannot_be_read_is_a_bug() -> None:
    class Broken(Exception):
        @property
        def response(self) -> object:
            raise ValueError("not yet")

    loop = requests.ConnectionError()
    loop.args = (loop,)
    assert kind_of(Broken(), (), {}) is BUG
    assert retry_hint(Broken()) is None
    assert kind_of(loop, (), {}).effect == "unknown"


# --- asked to wait ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "120"}, timedelta(minutes=2)),
        ({"RETRY-AFTER": " 1.5 "}, timedelta(seconds=1.5)),
        ({"Retry-After": 3}, timedelta(seconds=3)),
        ({"Retry-After": "99999999999"}, timedelta(seconds=99999999999)),
        ({"Retry-After": "9" * 400}, timedelta.max),
        ({"retry-after-ms": "250", "Retry-After": "1"}, timedelta(milliseconds=250)),
        ({"Retry-After-Ms": "x", "Retry-After": "1"}, timedelta(seconds=1)),
        ({"x-amz-retry-after": "250"}, timedelta(milliseconds=250)),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1e9"}, None),
        ({"Retry-After": "1_0"}, None),
        ({"Retry-After": "١٢"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": "Wed, 99 Oct 2099 07:28:00 GMT"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_hints(headers: Mapping[str, Any], expected: timedelta | None) -> None:
    assert retry_hint(ApiError(503, headers)) == expected


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=-8)), None], ids=str)
def test_a_date_in_any_zone(zone: timezone | None) -> None:
    then = datetime.now(timezone.utc) + timedelta(hours=1)
    hint = retry_hint(
        ApiError(503, {"Retry-After": format_datetime(then.astimezone(zone) if zone else then.replace(tzinfo=None))})
    )
    assert hint is not None
    assert timedelta(minutes=58) < hint <= timedelta(hours=1)


def test_503_with_garbage_or_without_a_wait_is_bare() -> None:
    assert kind_of_one(ApiError(503, {"Retry-After": "soon"})) is K.AMBIGUOUS
    assert kind_of_one(ApiError(503)) is K.AMBIGUOUS
    past = "Wed, 21 Oct 2015 07:28:00 GMT"  # refused all the same, whatever the clocks say
    assert kind_of_one(ApiError(503, {"Retry-After": past})) is K.THROTTLED
    assert kind_of_one(ApiError(503, {"Retry-After": "0"})) is K.THROTTLED


@pytest.mark.parametrize("headers", ["", b"", [], 7, [("retry-after", "1")]], ids=repr)
def test_headers_of_another_shape(headers: Any) -> None:
    error = ApiError(503, headers)
    assert headers_of(error) == {}
    assert retry_hint(error) is None


# --- imports ---

IMPORTED = {
    *(
        "aiohttp",
        "anthropic",
        "boto3",
        "botocore",
        "grpc",
        "http.client",
        "httpx",
        "httpx2",
        "mysql",
        "openai",
        "psycopg",
    ),
    *(
        "psycopg2",
        "psycopg_pool",
        "pymongo",
        "pymysql",
        "redis",
        "requests",
        "sqlalchemy",
        "sqlite3",
        "stripe",
        "urllib3",
        "valkey",
    ),
}


@pytest.mark.parametrize("module", ["temporal_saga", "temporal_saga.classification"])
def test_no_library_is_imported(module: str) -> None:
    # Against what temporalio itself brings: it is one of those that use some of these where they are installed.
    code = "import sys; {}; print(*sys.modules)"
    before, after = (
        set(
            subprocess.run(
                [sys.executable, "-c", code.format(each)], check=True, capture_output=True, text=True
            ).stdout.split()
        )
        for each in ("import temporalio.activity, temporalio.worker, temporalio.workflow", f"import {module}")
    )
    assert (after - before) & IMPORTED == set()
    assert module in after
    assert (module == "temporal_saga") is ("temporal_saga.classification" not in after)
