"""Reads what an exception means: looks its class up in the tables, and reads what the exception carries.

No library is imported: what an exception carries is read by attribute. `_tables` says what may count as proof.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from temporal_saga.errors import FailureKind

from ._hints import (
    LONGEST_BODY,
    errors_of,
    is_spent,
    is_throttled,
    wait_of_errors,
    wait_of_headers,
    wait_of_rpc,
    wait_of_used_up_limit,
)
from ._profiles import Rule
from ._tables import (
    AWS_CANCELLATION_REASONS,
    AWS_CODES,
    CLASSES,
    GRPC_CODES,
    HTTP_STATUSES,
    MYSQL_NUMBERS,
    SQLITE_NAMES,
    SQLITE_TEXTS,
    SQLSTATES,
    Reader,
)

__all__ = ["code_of", "headers_of", "hides_code", "kind_of", "match_rule", "retry_hint", "status_of", "told_by"]

_NOT_SENT = FailureKind.NOT_SENT
_THROTTLED = FailureKind.THROTTLED
_CONFLICT = FailureKind.CONFLICT
_AMBIGUOUS = FailureKind.AMBIGUOUS
_REJECTED = FailureKind.REJECTED
_AUTH = FailureKind.AUTH
_BUG = FailureKind.BUG


def match_rule(exception: BaseException, rules: Sequence[Rule]) -> FailureKind | None:
    """Return the kind of the first rule for the exception's class, or else for its nearest base; None without any."""
    for each in type(exception).__mro__:
        for rule in rules:
            if each.__name__ == rule.name and _within(each.__module__, rule.module):
                return rule.kind
    return None


def kind_of(exception: BaseException, rules: Sequence[Rule], statuses: Mapping[int, FailureKind]) -> FailureKind:
    """Return what an exception means.

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
        # If an attribute of someone's class raises, or leads back to itself, the activity's own error still goes on.
        return _BUG


def retry_hint(exception: BaseException) -> timedelta | None:
    """Return how long the other side asks to wait; None if it does not ask, or asks for a time that has passed."""
    try:
        headers = headers_of(exception)
        wait = (
            wait_of_headers(headers)
            or wait_of_errors(errors_of(exception))
            or wait_of_rpc(exception)
            or wait_of_used_up_limit(headers)
        )
    except Exception:  # as in `kind_of`
        return None
    return wait if wait is not None and wait > timedelta(0) else None


def status_of(exception: BaseException) -> int | None:
    """Return the HTTP status that an exception carries.

    A status counts if it is next to a response, or to headers: a class that merely has a `status` means something else.
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
    """Tell whether the answer may have a code that the exception lacks: its body was not read, or is not JSON."""
    if isinstance(_get(exception, "response"), Mapping):  # botocore
        return False
    own = cast("Mapping[str, object]", vars(exception))
    has_place = "error_code" in own or "errors" in own or ("code" in own and not isinstance(own["code"], int))  # urllib
    return not has_place and _body(_get(exception, "response")) is None


def told_by(exception: BaseException, codes: Container[object]) -> str:
    """Return what people need to know besides the exception's class: its HTTP status, and its code if that is known.

    Other codes, and all texts, may hold what is not to be shown.
    """
    status, code = status_of(exception), code_of(exception)
    if code not in codes and code not in AWS_CODES and not is_spent(code):
        is_grpc = _has_base(exception, "RpcError") or _has_base(exception, "RPCError")
        code = _grpc_code(exception) if is_grpc else None
    return " ".join(str(each) for each in (status, code) if each is not None)


@dataclass(frozen=True)
class _Users:
    """What the user's own rules say, for an exception that wraps another."""

    rules: Sequence[Rule]
    statuses: Mapping[int, FailureKind]

    def kind_of(self, wrapped: object) -> FailureKind:
        return kind_of(wrapped, self.rules, self.statuses) if isinstance(wrapped, BaseException) else _BUG


def _kind_of(exception: BaseException, users: _Users) -> FailureKind:
    for each in type(exception).__mro__:
        for module, found in _INDEX.get(each.__name__, ()):
            if _within(each.__module__, module):
                return found if isinstance(found, FailureKind) else found(exception, users)
    if status_of(exception) is not None:
        return _by_status(exception, users)
    sqlstate = _sqlstate(exception)
    kind = _BUG if sqlstate is None else _by_sqlstate(sqlstate)
    return _AMBIGUOUS if kind is _NOT_SENT else kind  # Snowflake's driver has 08001 for a gateway's 504, too


def _within(module: object, package: str) -> bool:
    return isinstance(module, str) and (module == package or module.startswith(f"{package}."))


def _has_base(exception: BaseException, name: str) -> bool:
    return any(each.__name__ == name for each in type(exception).__mro__)


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
    # httpx and requests keep here what has been read. Their public properties would read on, and may block or raise.
    content = _get(response, "_content")
    if not isinstance(content, bytes) or len(content) > LONGEST_BODY:
        return None
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", body) if isinstance(body, dict) else None


# --- HTTP ---


def _by_status(exception: BaseException, users: _Users) -> FailureKind:
    status = status_of(exception)
    if status is None:
        return _AMBIGUOUS  # the class says that there was a response
    kind = users.statuses.get(status)
    if kind is None:
        kind = _of_status(status)
        if is_throttled(status, headers_of(exception), errors_of(exception)):
            kind = _THROTTLED
        elif kind is _THROTTLED and is_spent(code_of(exception)):
            kind = _REJECTED
    return _AMBIGUOUS if kind.effect == "none" and _was_redirected(exception) else kind


def _by_aiohttp_status(exception: BaseException, users: _Users) -> FailureKind:
    kind = _by_status(exception, users)
    # aiohttp may have sent these twice by itself, and this may be the answer to the second.
    method = _get(_get(exception, "request_info"), "method")
    return _AMBIGUOUS if kind.effect == "none" and method in ("PUT", "DELETE") else kind


def _of_status(status: int) -> FailureKind:
    if status in HTTP_STATUSES:
        return HTTP_STATUSES[status]
    if 300 <= status < 400:
        return _BUG  # a redirect that was not followed
    return _REJECTED if 400 <= status < 500 else _AMBIGUOUS  # 2xx: it was done, and the answer could not be read


def _was_redirected(exception: BaseException) -> bool:
    # The answer is that of the last request; the first may have had its effect (303 after a POST).
    return bool(_get(_get(exception, "response"), "history") or _get(exception, "history"))


def _status(value: object) -> int | None:
    return int(value) if isinstance(value, int) and 100 <= value < 600 else None


# --- wrappers ---


def _by_reason(exception: BaseException, users: _Users) -> FailureKind:
    # urllib puts an error of connecting, or of sending, there.
    reason = _get(exception, "reason")
    if isinstance(reason, str):  # urllib: "unknown url type"
        return _BUG
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
    return kind if kind is _NOT_SENT else _AMBIGUOUS


def _by_original(exception: BaseException, users: _Users) -> FailureKind:
    kind = users.kind_of(_get(exception, "orig"))
    return _AMBIGUOUS if kind is _BUG and _get(exception, "connection_invalidated") else kind


# --- gRPC ---


def _by_grpc_code(exception: BaseException, users: _Users) -> FailureKind:
    del users
    name = _grpc_code(exception)
    details = _get(exception, "details")
    text = str(details()) if callable(details) else ""
    # A reply larger than the client takes, or a reset in its place: the server may have done its work.
    if "message larger than max" in text or "RST_STREAM" in text:
        return _AMBIGUOUS
    return GRPC_CODES.get(str(name), _AMBIGUOUS)


def _grpc_code(exception: BaseException) -> str | None:
    code = _get(exception, "code")
    name = _get(code() if callable(code) else _get(exception, "status"), "name")  # grpcio; temporalio's RPCError
    return name if isinstance(name, str) and name in GRPC_CODES else None


# --- AWS ---


def _by_aws_code(exception: BaseException, users: _Users) -> FailureKind:
    code = code_of(exception) or ""
    if code == "TransactionCanceledException":
        kind = _of_cancelled_transaction(_path(_get(exception, "response"), "CancellationReasons"))
    else:
        kind = AWS_CODES.get(code) or _by_status(exception, users)
    # botocore tries again by itself unless it is told not to, and an earlier try may have taken effect.
    tried_before = _path(_get(exception, "response"), "ResponseMetadata", "RetryAttempts")
    return _AMBIGUOUS if tried_before and kind.effect == "none" else kind


def _of_cancelled_transaction(reasons: object) -> FailureKind:
    codes = [_path(each, "Code") for each in cast("list[object]", reasons)] if isinstance(reasons, list) else []
    kinds = {AWS_CANCELLATION_REASONS.get(str(code), _REJECTED) for code in codes} or {_REJECTED}
    return next(kind for kind in (_REJECTED, _THROTTLED, _CONFLICT) if kind in kinds)


# --- databases ---


def _sqlstate(exception: BaseException) -> str | None:
    for name in ("sqlstate", "pgcode"):  # psycopg 3, asyncpg; psycopg2
        state: object = _get(exception, name)
        if isinstance(state, str) and len(state) == 5:
            return state
    return None


def _by_sqlstate(state: str) -> FailureKind:
    return SQLSTATES.get(state) or SQLSTATES.get(state[:2], _BUG)


def _by_postgres(exception: BaseException, users: _Users) -> FailureKind:
    del users
    state = _sqlstate(exception)
    if state is not None:
        return _by_sqlstate(state)
    if _has_base(exception, "OperationalError"):
        # No state: the connection was lost, or never made. psycopg says which: it hands out the `pgconn` of an attempt
        # to connect. libpq gives that attempt no state either, only the server's text.
        if _get(exception, "pgconn") is None:
            return _AMBIGUOUS
        return _AUTH if "authentication failed" in str(exception) else _NOT_SENT
    return _BUG  # psycopg's own, before it sent anything: a wrong type, a closed cursor


def _by_sqlite(exception: BaseException, users: _Users) -> FailureKind:
    del users
    name = _get(exception, "sqlite_errorname")
    if isinstance(name, str):
        return SQLITE_NAMES.get(name.split("_")[1], _BUG)
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return _REJECTED
    text = str(exception)
    return next((kind for start, kind in SQLITE_TEXTS.items() if text.startswith(start)), _BUG)


def _by_mysql(exception: BaseException, users: _Users) -> FailureKind:
    del users
    number = _get(exception, "errno") or (exception.args[0] if exception.args else None)
    if isinstance(number, int) and number in MYSQL_NUMBERS:
        return MYSQL_NUMBERS[number]
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return _REJECTED
    return _BUG if _has_base(exception, "ProgrammingError") else _AMBIGUOUS


def _by_mongo(exception: BaseException, users: _Users) -> FailureKind:
    del users
    labels = _get(exception, "has_error_label")
    if not callable(labels):
        return _AMBIGUOUS
    if labels("UnknownTransactionCommitResult"):
        return _AMBIGUOUS
    if labels("TransientTransactionError"):
        return _CONFLICT
    number = _get(exception, "code")
    return {13: _AUTH, 18: _AUTH, 112: _CONFLICT}.get(number, _AMBIGUOUS) if isinstance(number, int) else _AMBIGUOUS


def _by_mongo_connection(exception: BaseException, users: _Users) -> FailureKind:
    del users
    labels = _get(exception, "has_error_label")
    # A second try of a commit has that label, too, when it fails: the first was sent.
    return _AMBIGUOUS if not callable(labels) or labels("UnknownTransactionCommitResult") else _NOT_SENT


# --- classes ---

_Read = Callable[[BaseException, _Users], FailureKind]

_READERS: Mapping[Reader, _Read] = {
    Reader.STATUS: _by_status,
    Reader.AIOHTTP_STATUS: _by_aiohttp_status,
    Reader.REASON: _by_reason,
    Reader.ARGUMENT: _by_argument,
    Reader.ORIGINAL_ERROR: _by_original_error,
    Reader.ORIGINAL: _by_original,
    Reader.GRPC_CODE: _by_grpc_code,
    Reader.AWS_CODE: _by_aws_code,
    Reader.POSTGRES: _by_postgres,
    Reader.SQLITE: _by_sqlite,
    Reader.MYSQL: _by_mysql,
    Reader.MONGO: _by_mongo,
    Reader.MONGO_CONNECTION: _by_mongo_connection,
}


def _index() -> Mapping[str, Sequence[tuple[str, FailureKind | _Read]]]:
    index: dict[str, list[tuple[str, FailureKind | _Read]]] = {}
    for packages, means, names in CLASSES:
        found = _READERS[means] if isinstance(means, Reader) else means
        for name in names.split():
            index.setdefault(name, []).extend((package, found) for package in packages.split())
    return index


_INDEX = _index()
