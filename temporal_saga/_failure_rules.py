"""What exceptions mean: tables by class, HTTP status, gRPC code, AWS code and SQLSTATE, and who reads these off.

No library is imported: a class is known by its name and its module, and what it carries is read by attribute.

A kind whose effect is "none" is proof, and lets a saga leave a step as it is. So it stands here only where nothing can
have taken effect; whatever may mean either is AMBIGUOUS, and an exception that no table knows is a BUG. Three limits:

- A failure speaks for the call that it came from. An activity that has had another effect before has to say so itself.
- A client that tries again, or follows a redirect, by itself shows the last failure only. What can be seen of that
  (botocore's count, a response's history) turns proof into AMBIGUOUS. Most of it cannot be seen: switch it off.
- `raise X from error` means X. The cause is what the user chose to hide, and X may come after other effects, so
  `__cause__` is not followed. Libraries that wrap others' errors in an attribute of their own are unwrapped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, cast

from .errors import FailureKind

__all__ = [
    "Rule",
    "check_kinds",
    "check_rules",
    "code_of",
    "headers_of",
    "hides_code",
    "kind_of",
    "match_rule",
    "retry_hint",
    "status_of",
    "told_by",
]

_LONGEST_BODY = 100_000  # of an error, to be parsed for its code

NOT_SENT = FailureKind.NOT_SENT
THROTTLED = FailureKind.THROTTLED
CONFLICT = FailureKind.CONFLICT
IN_PROGRESS = FailureKind.IN_PROGRESS
AMBIGUOUS = FailureKind.AMBIGUOUS
REJECTED = FailureKind.REJECTED
DECLINED = FailureKind.DECLINED
AUTH = FailureKind.AUTH
KEY_MISUSE = FailureKind.KEY_MISUSE
CANCELLED = FailureKind.CANCELLED
BUG = FailureKind.BUG


@dataclass(frozen=True)
class Rule:
    """What an exception of one class, or of a class derived from it, means.

    Attributes:
        module: Where the class is defined, or a package around it (`stripe` for `stripe._error`).
        name: The class's name.
        kind: What it means.
    """

    module: str
    name: str
    kind: FailureKind

    def __post_init__(self) -> None:
        check_kinds(f"Rule({self.module!r}, {self.name!r})", [self.kind])


def check_kinds(what: str, kinds: Iterable[object]) -> None:
    """Raise TypeError if one is no `FailureKind`: it would take the place of an activity's error, far from here."""
    for kind in kinds:
        if not isinstance(kind, FailureKind):
            raise TypeError(f"{what} has {kind!r}, which is no FailureKind: write FailureKind.DECLINED, or another one")


def check_rules(what: str, rules: object) -> None:
    """Raise TypeError if it is no list of rules."""
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise TypeError(f"{what} is {rules!r}, no list of rules: [Rule(...)]")
    for rule in cast("Sequence[object]", rules):
        if not isinstance(rule, Rule):
            raise TypeError(f"{what} has {rule!r}, which is no Rule: Rule(module, name, kind)")


def match_rule(exception: BaseException, rules: Sequence[Rule]) -> FailureKind | None:
    """Return the kind of the first rule for the exception's class, or else for its nearest base; None without any."""
    for each in type(exception).__mro__:
        for rule in rules:
            if each.__name__ == rule.name and _within(each.__module__, rule.module):
                return rule.kind
    return None


def kind_of(exception: BaseException, rules: Sequence[Rule], statuses: Mapping[int, FailureKind]) -> FailureKind:
    """Tell what an exception means.

    Args:
        exception: What a library raised.
        rules: The user's own, which come first.
        statuses: The user's own HTTP statuses, which come before the table where a status decides.
    """
    kind = match_rule(exception, rules)
    if kind is not None:
        return kind
    try:
        return _kind_of(exception, _Users(rules, statuses))
    except Exception:
        # An attribute of someone's class that raises, or leads back to itself, must not take the place of the error.
        return BUG


def retry_hint(exception: BaseException) -> timedelta | None:
    """Return how long the other side asks to wait; None if it does not, or not with a time that lies ahead."""
    try:
        wait = _asked_wait(headers_of(exception)) or _pushback(exception)
    except Exception:  # as in `kind_of`
        return None
    return wait if wait is not None and wait > timedelta(0) else None


def status_of(exception: BaseException) -> int | None:
    """Return the HTTP status that an exception carries.

    It is believed next to a response, or to headers: a class that merely has a `status` means something else by it.
    """
    response = _get(exception, "response")
    status = _status(_path(response, "ResponseMetadata", "HTTPStatusCode"))  # botocore
    if status is not None:
        return status
    for name in ("status_code", "status"):
        status = _status(_get(response, name))
        if status is not None:
            return status
    # aiohttp makes up a 400, without headers, for an answer that it cannot read.
    if _get(exception, "headers") is None:
        return None
    for name in ("status_code", "http_status", "status"):  # Square, Adyen; Stripe; aiohttp, urllib
        status = _status(_get(exception, name))
        if status is not None:
            return status
    return None


def headers_of(exception: BaseException) -> Mapping[str, str]:
    """Return the HTTP headers of the response that an exception carries, names in lower case."""
    response = _get(exception, "response")
    items = _get(
        _path(response, "ResponseMetadata", "HTTPHeaders")  # botocore
        or _get(response, "headers")
        or _get(exception, "headers"),
        "items",
    )
    if not callable(items):
        return {}
    return {str(name).lower(): str(value) for name, value in cast("Iterable[tuple[Any, Any]]", items())}


def code_of(exception: BaseException) -> str | None:
    """Return the provider's own code for an error, where its SDK has one."""
    response = _get(exception, "response")
    body = _body(response)
    for code in (
        _path(response, "Error", "Code"),  # botocore
        _get(exception, "error_code"),  # Adyen
        _get(_first(_get(exception, "errors")), "code"),  # Square
        _path(_get(exception, "__dict__"), "code"),  # Stripe; aiohttp's is a property, its status, and warns
        _path(body, "errorCode"),  # Adyen
        _path(_first(_path(body, "errors")), "code"),  # Square
        _path(_first(_path(body, "details")), "issue"),  # PayPal
        _path(body, "error", "code"),  # Stripe
        _path(body, "error", "type"),
    ):
        if isinstance(code, str) and code:
            return code
    return None


def hides_code(exception: BaseException) -> bool:
    """Tell whether a code may be in the answer, and not in the exception: its body was not read, or is no JSON."""
    if isinstance(_get(exception, "response"), Mapping):  # botocore
        return False
    own = cast("Mapping[str, object]", vars(exception))
    has_place = "error_code" in own or "errors" in own or ("code" in own and not isinstance(own["code"], int))  # urllib
    return not has_place and _body(_get(exception, "response")) is None


def told_by(exception: BaseException, codes: Container[object]) -> str:
    """Return what an exception's message would hide, for people: its HTTP status, and its code if that is a known one.

    Other codes, and all texts, may hold what is not to be shown.
    """
    status, code = status_of(exception), code_of(exception)
    if code not in codes and code not in _AWS:
        is_grpc = _has_base(exception, "RpcError") or _has_base(exception, "RPCError")
        code = _grpc_code(exception) if is_grpc else None
    return " ".join(str(each) for each in (status, code) if each is not None)


@dataclass(frozen=True)
class _Users:
    rules: Sequence[Rule]
    statuses: Mapping[int, FailureKind]

    def kind_of(self, wrapped: object) -> FailureKind:
        return kind_of(wrapped, self.rules, self.statuses) if isinstance(wrapped, BaseException) else BUG


_Reader = Callable[[BaseException, _Users], FailureKind]


def _kind_of(exception: BaseException, users: _Users) -> FailureKind:
    for each in type(exception).__mro__:
        for module, found in _INDEX.get(each.__name__, ()):
            if _within(each.__module__, module):
                return found if isinstance(found, FailureKind) else found(exception, users)
    if status_of(exception) is not None:
        return _by_status(exception, users)
    sqlstate = _sqlstate(exception)
    kind = BUG if sqlstate is None else _by_sqlstate(sqlstate)
    return AMBIGUOUS if kind is NOT_SENT else kind  # Snowflake's driver has 08001 for a gateway's 504, too


def _within(module: object, package: str) -> bool:
    return isinstance(module, str) and (module == package or module.startswith(f"{package}."))


def _get(source: object, name: str) -> Any:
    return getattr(source, name, None)


def _path(source: object, *names: str) -> Any:
    for name in names:
        if not isinstance(source, Mapping):
            return None
        source = cast("Mapping[str, object]", source).get(name)
    return source


def _first(source: Any) -> Any:
    return next(iter(cast("list[object]", source)), None) if isinstance(source, list) else None


def _body(response: object) -> Mapping[str, object] | None:
    # httpx and requests keep here what has been read. What is public reads on, so that it may block, or raises.
    content = _get(response, "_content")
    if not isinstance(content, bytes) or len(content) > _LONGEST_BODY:
        return None
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", body) if isinstance(body, dict) else None


# --- HTTP ---

_HTTP: Mapping[int, FailureKind] = {
    401: AUTH,
    402: DECLINED,
    403: AUTH,
    407: AUTH,
    408: AMBIGUOUS,
    421: NOT_SENT,  # RFC 9110, 15.5.20: another connection may serve it; this one refused to
    425: NOT_SENT,  # RFC 8470, 5.2: refused before it was processed, as early data
    429: THROTTLED,
    499: AMBIGUOUS,
    501: REJECTED,
    505: REJECTED,
}


def _by_status(exception: BaseException, users: _Users) -> FailureKind:
    status = status_of(exception)
    if status is None:
        return AMBIGUOUS  # the class says that there was a response
    kind = users.statuses.get(status)
    if kind is None:
        kind = THROTTLED if status == 503 and _asked_wait(headers_of(exception)) is not None else _of_status(status)
    return AMBIGUOUS if kind.effect == "none" and _was_redirected(exception) else kind


def _by_aiohttp_status(exception: BaseException, users: _Users) -> FailureKind:
    kind = _by_status(exception, users)
    # It may be the answer to the second of two that aiohttp has sent by itself.
    method = _get(_get(exception, "request_info"), "method")
    return AMBIGUOUS if kind.effect == "none" and method in ("PUT", "DELETE") else kind


def _of_status(status: int) -> FailureKind:
    if status in _HTTP:
        return _HTTP[status]
    if 300 <= status < 400:
        return BUG  # a redirect that was not followed
    return REJECTED if 400 <= status < 500 else AMBIGUOUS  # 2xx: it was done, and the answer could not be read


def _was_redirected(exception: BaseException) -> bool:
    # The answer is that of the last request; the first may have had its effect (303 after a POST).
    return bool(_get(_get(exception, "response"), "history") or _get(exception, "history"))


def _status(value: object) -> int | None:
    return int(value) if isinstance(value, int) and 100 <= value < 600 else None


def _asked_wait(headers: Mapping[str, str]) -> timedelta | None:
    for name, unit in (("retry-after-ms", 0.001), ("x-amz-retry-after", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            return _seconds(float(text) * unit)
        if name == "retry-after" and text:
            return _until(text)
    return None


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
    if then.tzinfo is None:  # "-0000", which RFC 5322 has for UTC from an unknown place
        then = then.replace(tzinfo=timezone.utc)
    return then - datetime.now(timezone.utc)  # noqa: TID251  # in an activity


# --- wrappers ---


def _by_reason(exception: BaseException, users: _Users) -> FailureKind:
    # urllib puts there what came of connecting or of sending.
    reason = _get(exception, "reason")
    if isinstance(reason, str):  # urllib: "unknown url type"
        return BUG
    return _if_not_sent(users.kind_of(reason))


def _by_argument(exception: BaseException, users: _Users) -> FailureKind:
    # requests and urllib3: `ConnectionError(MaxRetryError(reason=...))`, `SSLError(SSLCertVerificationError(...))`.
    wrapped = exception.args[0] if exception.args else None
    reason = _get(wrapped, "reason")
    return _if_not_sent(users.kind_of(reason if isinstance(reason, BaseException) else wrapped))


def _by_original_error(exception: BaseException, users: _Users) -> FailureKind:
    # urllib3 says "Unable to connect to proxy" of a connection that is lost after the request, too.
    return _if_not_sent(users.kind_of(_get(exception, "original_error")))


def _if_not_sent(kind: FailureKind) -> FailureKind:
    return kind if kind is NOT_SENT else AMBIGUOUS


def _by_original(exception: BaseException, users: _Users) -> FailureKind:
    kind = users.kind_of(_get(exception, "orig"))
    return AMBIGUOUS if kind is BUG and _get(exception, "connection_invalidated") else kind


# --- gRPC ---

# A status is the server's word, or the library's own where it makes some up (its doc/statuscodes.md). The two look
# alike: a server that hands on the failure of a call of its own may well say "failed to connect to all addresses",
# after an effect. So no text makes UNAVAILABLE proof.
_GRPC: Mapping[str, FailureKind] = {
    "CANCELLED": AMBIGUOUS,
    "UNKNOWN": AMBIGUOUS,
    "INVALID_ARGUMENT": REJECTED,
    "DEADLINE_EXCEEDED": AMBIGUOUS,
    "NOT_FOUND": REJECTED,
    "ALREADY_EXISTS": REJECTED,
    "PERMISSION_DENIED": AUTH,
    "RESOURCE_EXHAUSTED": THROTTLED,
    "FAILED_PRECONDITION": REJECTED,
    "ABORTED": CONFLICT,
    "OUT_OF_RANGE": REJECTED,
    "UNIMPLEMENTED": REJECTED,
    "INTERNAL": AMBIGUOUS,
    "UNAVAILABLE": AMBIGUOUS,
    "DATA_LOSS": AMBIGUOUS,
    "UNAUTHENTICATED": AUTH,
}


def _by_grpc_code(exception: BaseException, users: _Users) -> FailureKind:
    del users
    name = _grpc_code(exception)
    details = _get(exception, "details")
    text = str(details()) if callable(details) else ""
    # A reply larger than the client takes, or a reset in its place: the server may have done its work.
    if "message larger than max" in text or "RST_STREAM" in text:
        return AMBIGUOUS
    return _GRPC.get(str(name), AMBIGUOUS)


def _grpc_code(exception: BaseException) -> str | None:
    code = _get(exception, "code")
    name = _get(code() if callable(code) else _get(exception, "status"), "name")  # grpcio; temporalio's RPCError
    return name if isinstance(name, str) and name in _GRPC else None


def _pushback(exception: BaseException) -> timedelta | None:
    metadata = _get(exception, "trailing_metadata")  # gRPC A6, "Pushback"
    for name, value in cast("Iterable[tuple[str, Any]]", (metadata() if callable(metadata) else None) or ()):
        if name == "grpc-retry-pushback-ms":
            return _asked_wait({"retry-after-ms": str(value)})
    return None


# --- AWS ---

_AWS: Mapping[str, FailureKind] = {
    # botocore's retries/standard.py
    "BandwidthLimitExceeded": THROTTLED,
    "EC2ThrottledException": THROTTLED,
    "LimitExceededException": THROTTLED,
    "PriorRequestNotComplete": THROTTLED,
    "ProvisionedThroughputExceededException": THROTTLED,
    "RequestLimitExceeded": THROTTLED,
    "RequestThrottled": THROTTLED,
    "RequestThrottledException": THROTTLED,
    "SlowDown": THROTTLED,
    "ThrottledException": THROTTLED,
    "Throttling": THROTTLED,
    "ThrottlingException": THROTTLED,
    "TooManyRequestsException": THROTTLED,
    "RequestTimeout": AMBIGUOUS,
    "RequestTimeoutException": AMBIGUOUS,
    "TransactionInProgressException": IN_PROGRESS,
    "TransactionConflictException": CONFLICT,
    "IdempotentParameterMismatch": KEY_MISUSE,
    "IdempotentParameterMismatchException": KEY_MISUSE,
    "AccessDenied": AUTH,
    "AccessDeniedException": AUTH,
    "AuthFailure": AUTH,
    "ExpiredToken": AUTH,
    "ExpiredTokenException": AUTH,
    "IncompleteSignature": AUTH,
    "InvalidAccessKeyId": AUTH,
    "InvalidClientTokenId": AUTH,
    "InvalidSignatureException": AUTH,
    "MissingAuthenticationToken": AUTH,
    "MissingAuthenticationTokenException": AUTH,
    "RequestTimeTooSkewed": AUTH,
    "SignatureDoesNotMatch": AUTH,
    "UnauthorizedOperation": AUTH,
    "UnrecognizedClientException": AUTH,
}

# Why DynamoDB cancelled a transaction, for each of its items.
_AWS_REASONS: Mapping[str, FailureKind] = {
    "None": CONFLICT,
    "TransactionConflict": CONFLICT,
    "ProvisionedThroughputExceeded": THROTTLED,
    "ThrottlingError": THROTTLED,
}


def _by_aws_code(exception: BaseException, users: _Users) -> FailureKind:
    code = code_of(exception) or ""
    if code == "TransactionCanceledException":
        kind = _of_cancelled_transaction(_path(_get(exception, "response"), "CancellationReasons"))
    else:
        kind = _AWS.get(code) or _by_status(exception, users)
    # botocore tries again by itself unless it is told not to, and a try before this one may have taken effect.
    tried_before = _path(_get(exception, "response"), "ResponseMetadata", "RetryAttempts")
    return AMBIGUOUS if tried_before and kind.effect == "none" else kind


def _of_cancelled_transaction(reasons: object) -> FailureKind:
    codes = [_path(each, "Code") for each in cast("list[object]", reasons)] if isinstance(reasons, list) else []
    kinds = {_AWS_REASONS.get(str(code), REJECTED) for code in codes} or {REJECTED}
    return next(kind for kind in (REJECTED, THROTTLED, CONFLICT) if kind in kinds)


# --- databases ---

# By state, else by class (the first two characters). An ERROR rolls its transaction back. What ends the connection may
# come after a COMMIT took effect and before it was acknowledged, and whether it was a COMMIT cannot be told from the
# error: psycopg's is the same for both, SQLAlchemy knows the statement but not whether it commits by itself. So all of
# these are AMBIGUOUS.
_SQLSTATE: Mapping[str, FailureKind] = {
    "08": AMBIGUOUS,  # connection exceptions, 08007 (transaction resolution unknown) among them
    "08001": NOT_SENT,
    "08004": NOT_SENT,
    "0A": REJECTED,
    "21": REJECTED,
    "22": REJECTED,
    "23": REJECTED,
    "25006": CONFLICT,  # read-only: a standby that was the primary before
    "25P03": CONFLICT,  # idle in a transaction, so not in its COMMIT
    "28": AUTH,
    "40": CONFLICT,
    "40003": AMBIGUOUS,  # statement completion unknown
    "42": REJECTED,
    "42501": AUTH,
    "44": REJECTED,
    "53": THROTTLED,
    "53300": NOT_SENT,  # too many connections
    "54": REJECTED,
    "55006": CONFLICT,
    "55P03": CONFLICT,  # lock not available
    "57": AMBIGUOUS,  # 57P01 and 57P02: the server, or the session, was shut down
    "57014": CONFLICT,  # statement timeout, cancelled query
    "57P03": NOT_SENT,  # cannot connect now
    "57P05": NOT_SENT,  # idle, so that nothing was under way
    "58": AMBIGUOUS,
    "P0001": REJECTED,  # raised by a function or a trigger
    "XX": AMBIGUOUS,
}


def _sqlstate(exception: BaseException) -> str | None:
    for name in ("sqlstate", "pgcode"):  # psycopg 3, asyncpg; psycopg2
        state: object = _get(exception, name)
        if isinstance(state, str) and len(state) == 5:
            return state
    return None


def _by_sqlstate(state: str) -> FailureKind:
    return _SQLSTATE.get(state) or _SQLSTATE.get(state[:2], BUG)


def _by_postgres(exception: BaseException, users: _Users) -> FailureKind:
    del users
    state = _sqlstate(exception)
    if state is not None:
        return _by_sqlstate(state)
    if _has_base(exception, "OperationalError"):
        # No state: the connection was lost, or never made. psycopg says which: it hands out the `pgconn` of an attempt
        # to connect. libpq gives that attempt no state either, only the server's text.
        if _get(exception, "pgconn") is None:
            return AMBIGUOUS
        return AUTH if "authentication failed" in str(exception) else NOT_SENT
    return BUG  # psycopg's own, before it sent anything: a wrong type, a closed cursor


# By the second word of its name: SQLITE_BUSY_SNAPSHOT is a SQLITE_BUSY.
_SQLITE: Mapping[str, FailureKind] = {
    "AUTH": AUTH,
    "BUSY": CONFLICT,
    "CANTOPEN": NOT_SENT,
    "CONSTRAINT": REJECTED,
    "FULL": THROTTLED,
    "INTERRUPT": CONFLICT,
    "IOERR": AMBIGUOUS,
    "LOCKED": CONFLICT,
    "MISMATCH": REJECTED,
    "PERM": AUTH,
    "PROTOCOL": CONFLICT,
    "READONLY": AUTH,
    "SCHEMA": CONFLICT,
    "TOOBIG": REJECTED,
}

# Python 3.10 has no `sqlite_errorname`. SQLite's texts are part of its code, and not translated.
_SQLITE_TEXTS: Mapping[str, FailureKind] = {
    "attempt to write a readonly database": AUTH,
    "database is locked": CONFLICT,
    "database or disk is full": THROTTLED,
    "database schema is locked": CONFLICT,
    "database table is locked": CONFLICT,
    "disk I/O error": AMBIGUOUS,
    "interrupted": CONFLICT,
    "not authorized": AUTH,
    "unable to open database file": NOT_SENT,
}


def _by_sqlite(exception: BaseException, users: _Users) -> FailureKind:
    del users
    name = _get(exception, "sqlite_errorname")
    if isinstance(name, str):
        return _SQLITE.get(name.split("_")[1], BUG)
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return REJECTED
    text = str(exception)
    return next((kind for start, kind in _SQLITE_TEXTS.items() if text.startswith(start)), BUG)


# Client and server error numbers. 2006 and 2013 may come from a COMMIT, as with PostgreSQL.
_MYSQL: Mapping[int, FailureKind] = {
    1040: NOT_SENT,
    1044: AUTH,
    1045: AUTH,
    1142: AUTH,
    1203: NOT_SENT,
    1205: CONFLICT,  # lock wait timeout: rolls back the statement only, so the activity has to roll back the rest
    1213: CONFLICT,
    1226: THROTTLED,
    1698: AUTH,
    2002: NOT_SENT,
    2003: NOT_SENT,
    2005: NOT_SENT,
}


def _by_mysql(exception: BaseException, users: _Users) -> FailureKind:
    del users
    number = _get(exception, "errno") or (exception.args[0] if exception.args else None)
    if isinstance(number, int) and number in _MYSQL:
        return _MYSQL[number]
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return REJECTED
    return BUG if _has_base(exception, "ProgrammingError") else AMBIGUOUS


def _by_mongo(exception: BaseException, users: _Users) -> FailureKind:
    del users
    labels = _get(exception, "has_error_label")
    if not callable(labels):
        return AMBIGUOUS
    if labels("UnknownTransactionCommitResult"):
        return AMBIGUOUS
    if labels("TransientTransactionError"):
        return CONFLICT
    number = _get(exception, "code")
    return {13: AUTH, 18: AUTH, 112: CONFLICT}.get(number, AMBIGUOUS) if isinstance(number, int) else AMBIGUOUS


def _by_mongo_connection(exception: BaseException, users: _Users) -> FailureKind:
    del users
    labels = _get(exception, "has_error_label")
    # That label is on what ends a second try of a commit, too: the first was sent.
    return AMBIGUOUS if not callable(labels) or labels("UnknownTransactionCommitResult") else NOT_SENT


def _has_base(exception: BaseException, name: str) -> bool:
    return any(each.__name__ == name for each in type(exception).__mro__)


# --- classes ---

# The nearest class of an exception's bases decides, so that a library's catch-all stands below what it catches.
_CLASSES: Sequence[tuple[str, FailureKind | _Reader, str]] = (
    # Python. Not here, hence BUG: PermissionError, FileExistsError, BlockingIOError and other OSErrors. They come from
    # files and locks as well, perhaps after the effect.
    ("builtins", NOT_SENT, "ConnectionRefusedError"),
    ("builtins", AMBIGUOUS, "ConnectionError EOFError TimeoutError"),
    ("asyncio", AMBIGUOUS, "TimeoutError"),  # a class of its own before Python 3.11, and the next one
    ("concurrent.futures", AMBIGUOUS, "BrokenExecutor TimeoutError"),
    ("asyncio", CANCELLED, "CancelledError"),
    ("concurrent.futures", CANCELLED, "CancelledError"),
    ("temporalio", CANCELLED, "CancelledError"),
    ("temporalio", _by_grpc_code, "RPCError"),
    ("socket", NOT_SENT, "gaierror herror"),
    ("ssl", NOT_SENT, "SSLCertVerificationError"),
    ("ssl", AMBIGUOUS, "SSLError"),
    ("http.client", AMBIGUOUS, "HTTPException"),
    ("http.client", BUG, "ImproperConnectionState InvalidURL NotConnected"),
    ("urllib.error", _by_status, "HTTPError"),
    ("urllib.error", _by_reason, "URLError"),
    ("subprocess", AMBIGUOUS, "TimeoutExpired"),
    # httpx
    ("httpx", NOT_SENT, "ConnectError ConnectTimeout PoolTimeout ProxyError"),
    ("httpx", AMBIGUOUS, "DecodingError TransportError"),
    ("httpx", BUG, "LocalProtocolError TooManyRedirects UnsupportedProtocol"),
    ("httpx", _by_status, "HTTPStatusError"),
    # requests and urllib3
    ("requests", NOT_SENT, "ConnectTimeout"),
    ("requests", AMBIGUOUS, "RequestException"),
    ("requests", BUG, "InvalidHeader InvalidSchema InvalidURL MissingSchema TooManyRedirects URLRequired"),
    ("requests", _by_argument, "ConnectionError"),
    ("requests", _by_status, "HTTPError"),
    ("urllib3", NOT_SENT, "ConnectTimeoutError EmptyPoolError"),
    ("urllib3", _by_original_error, "ProxyError"),
    ("urllib3", AMBIGUOUS, "HTTPError MaxRetryError"),  # of several tries; requests makes one
    ("urllib3", BUG, "LocationValueError"),
    ("urllib3", _by_argument, "SSLError"),
    # aiohttp sends a PUT or DELETE again by itself when its connection is lost, with no way to switch that off. So a
    # refused connection proves nothing, and the error does not say what the method was.
    ("aiohttp", AMBIGUOUS, "ClientError ClientHttpProxyError"),
    ("aiohttp", AMBIGUOUS, "InvalidUrlRedirectClientError NonHttpUrlRedirectClientError"),
    ("aiohttp", BUG, "InvalidURL NonHttpUrlClientError"),
    ("aiohttp", _by_aiohttp_status, "ClientResponseError"),
    # gRPC
    ("grpc", AMBIGUOUS, "FutureTimeoutError"),
    ("grpc", CANCELLED, "FutureCancelledError"),
    ("grpc", _by_grpc_code, "RpcError"),
    # AWS: botocore tries again by itself unless it is told not to, and its connection errors do not say how often.
    ("botocore", AMBIGUOUS, "ConnectionError HTTPClientError IncompleteReadError"),
    ("botocore", AUTH, "CredentialRetrievalError LoginError NoAuthTokenError NoCredentialsError"),
    ("botocore", AUTH, "PartialCredentialsError ProfileNotFound SSOError TokenRetrievalError"),
    ("botocore", REJECTED, "ParamValidationError"),
    ("botocore", _by_aws_code, "ClientError"),
    # PostgreSQL, SQLite, MySQL, SQLAlchemy. A duplicate key is REJECTED: whether the row that is there is one's own
    # cannot be told here.
    ("psycopg", NOT_SENT, "ConnectionTimeout"),
    ("psycopg", _by_postgres, "Error"),
    ("psycopg2", _by_postgres, "Error"),
    ("psycopg_pool", NOT_SENT, "PoolTimeout TooManyRequests"),
    ("psycopg_pool", BUG, "PoolClosed"),
    ("sqlite3", _by_sqlite, "Error"),
    ("mysql", _by_mysql, "Error"),
    ("MySQLdb", _by_mysql, "MySQLError"),
    ("pymysql", _by_mysql, "MySQLError"),
    ("sqlalchemy", NOT_SENT, "TimeoutError"),  # of the pool
    ("sqlalchemy", AMBIGUOUS, "DisconnectionError"),
    ("sqlalchemy", CONFLICT, "StaleDataError"),
    ("sqlalchemy", _by_original, "StatementError"),
    # MongoDB: a bulk write may have been done in part, a write concern's failure says nothing of the write.
    ("pymongo", _by_mongo_connection, "ServerSelectionTimeoutError WaitQueueTimeoutError"),
    ("pymongo", REJECTED, "DocumentTooLarge DuplicateKeyError WriteError"),
    ("pymongo", AMBIGUOUS, "BulkWriteError ClientBulkWriteException WriteConcernError"),
    ("pymongo", BUG, "ConfigurationError InvalidName InvalidOperation"),
    ("pymongo", _by_mongo, "PyMongoError"),
    # Redis: redis-py tries again by itself unless it is told not to, so its connection errors prove nothing.
    ("redis", AMBIGUOUS, "ConnectionError TimeoutError"),
    ("redis", NOT_SENT, "MaxConnectionsError"),
    ("redis", THROTTLED, "OutOfMemoryError"),
    ("redis", CONFLICT, "AskError ClusterDownError ReadOnlyError TryAgainError WatchError"),
    ("redis", REJECTED, "ExecAbortError NoScriptError"),
    ("redis", AUTH, "AuthenticationError AuthorizationError NoPermissionError"),
    # Stripe: its SDK tries again by itself unless it is told not to. Its other errors go by their status.
    ("stripe", AMBIGUOUS, "APIConnectionError"),
    ("stripe", DECLINED, "CardError"),
    ("stripe", KEY_MISUSE, "IdempotencyError"),
    ("stripe", THROTTLED, "RateLimitError"),
    ("stripe", AUTH, "AuthenticationError PermissionError"),
    ("stripe", _by_status, "StripeError"),
    # The SDKs of language models: an error with an answer goes by its status.
    ("anthropic", AMBIGUOUS, "APIConnectionError"),
    ("openai", AMBIGUOUS, "APIConnectionError"),
)


def _index() -> Mapping[str, Sequence[tuple[str, FailureKind | _Reader]]]:
    index: dict[str, list[tuple[str, FailureKind | _Reader]]] = {}
    for module, found, names in _CLASSES:
        for name in names.split():
            index.setdefault(name, []).append((module, found))
    return index


_INDEX = _index()
