"""Reads what an exception means: looks its class up in the tables, and reads its attributes.

No library is imported: exceptions are read by attribute. `_tables` says what counts as a proof for the failed request.
`_evidence` says whether there was another request in the same call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from temporal_saga.errors import FailureKind

from ._evidence import is_proof
from ._hints import (
    errors_of,
    is_spent,
    is_throttled,
    parsed,
    wait_of_errors,
    wait_of_headers,
    wait_of_rpc,
    wait_of_used_up_limit,
)
from ._libraries import LIBRARIES, UNKNOWN, Library
from ._profiles import Rule
from ._tables import (
    AWS_CANCELLATION_REASONS,
    AWS_CODES,
    GRPC_CODES,
    HTTP_STATUSES,
    MYSQL_NUMBERS,
    ORACLE_CODES,
    SQLITE_NAMES,
    SQLITE_TEXTS,
    SQLSTATES,
    Reader,
)

__all__ = [
    "Reading",
    "code_of",
    "headers_of",
    "hides_code",
    "kind_of",
    "library_of",
    "match_rule",
    "reading_as",
    "reading_of",
    "retry_hint",
    "status_of",
    "told_by",
]

_NOT_SENT = FailureKind.NOT_SENT
_THROTTLED = FailureKind.THROTTLED
_CONFLICT = FailureKind.CONFLICT
_AMBIGUOUS = FailureKind.AMBIGUOUS
_REJECTED = FailureKind.REJECTED
_AUTH = FailureKind.AUTH
_BUG = FailureKind.BUG


class Reading(NamedTuple):
    """The meaning of an exception.

    Attributes:
        kind: The kind of failure of the request that failed.
        is_proof: Whether the kind is true of the whole call: no other request in it can have had an effect.
    """

    kind: FailureKind
    is_proof: bool = True

    @property
    def claim(self) -> FailureKind:
        """The kind of the whole call."""
        return self.kind if self.is_proof or self.kind.effect == "unknown" else _AMBIGUOUS


def match_rule(exception: BaseException, rules: Sequence[Rule]) -> Rule | None:
    """Return the first rule for the exception's class, or else for its nearest base; None if there is none."""
    if not rules:
        return None
    for each in type(exception).__mro__:
        for rule in rules:
            if each.__name__ == rule.name and _within(each.__module__, rule.module):
                return rule
    return None


def library_of(exception: BaseException) -> Library:
    """Return the row of the library that an exception comes from: that of the nearest base that has a row."""
    return _library_of(type(exception))  # type: ignore[arg-type]  # a class is hashable


@lru_cache(maxsize=512)
def _library_of(of: type[BaseException]) -> Library:
    for each in of.__mro__:
        for package, library in _PACKAGES.get(str(each.__module__).partition(".")[0], ()):
            if _within(each.__module__, package):
                return library
    return UNKNOWN


def kind_of(
    exception: BaseException,
    rules: Sequence[Rule],
    statuses: Mapping[int, FailureKind],
    *,
    client_retries: bool | None = None,
) -> FailureKind:
    """Return what an exception means for the whole call that raised it. `reading_of` says more."""
    return reading_of(exception, rules, statuses, client_retries=client_retries).claim


def reading_of(
    exception: BaseException,
    rules: Sequence[Rule],
    statuses: Mapping[int, FailureKind],
    *,
    client_retries: bool | None = None,
) -> Reading:
    """Return what an exception means.

    Args:
        exception: The exception that a library raised.
        rules: The user's own rules, which come first.
        statuses: The user's own HTTP statuses. If a status decides, they come before the table.
        client_retries: What the user says about the client; None if the user does not say.
    """
    rule = match_rule(exception, rules)
    try:
        if rule is None:
            return _Users(rules, statuses, client_retries).reading_of(exception)
        if rule.client_retries is not None:
            client_retries = rule.client_retries
        return Reading(rule.kind, _is_proof(rule.kind, exception, library_of(exception), client_retries))
    except Exception:
        # If an attribute of a foreign class raises, or refers to itself, the activity's own error still goes on.
        return Reading(_BUG if rule is None else rule.kind)


def reading_as(kind: FailureKind, exception: BaseException, client_retries: bool | None) -> Reading:
    """Return what an exception means if something else says its kind, such as the code in the answer."""
    row = _row_of(type(exception))  # type: ignore[arg-type]  # a class is hashable
    library = row.library if row is not None and row.is_own else UNKNOWN
    return Reading(kind, _is_proof(kind, exception, library, client_retries))


def _is_proof(kind: FailureKind, exception: BaseException, library: Library, client_retries: bool | None) -> bool:
    return kind.effect == "unknown" or is_proof(exception, library, client_retries=client_retries)


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

    A status counts if it comes with a response or with headers, or if the library's row says where it is. If a class
    merely has a `status`, that means something else.
    """
    response = _get(exception, "response")
    status = _status(_path(response, "ResponseMetadata", "HTTPStatusCode"))  # botocore
    if status is not None:
        return status
    for name in ("status_code", "status"):
        status = _status(_get(response, name))
        if status is not None:
            return status
    if name := library_of(exception).status:
        return _status(_get(exception, name))
    # If aiohttp cannot read an answer, it makes up a 400 without headers.
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
    """Return the provider's own code for an error; None if it has none."""
    return next((code for code in _codes(exception) if isinstance(code, str) and code), None)


def _codes(exception: BaseException) -> Iterator[object]:
    response = _get(exception, "response")
    yield _path(response, "Error", "Code")  # botocore
    yield _get(exception, "error_code")  # Adyen
    yield _get(_first(_get(exception, "errors")), "code")  # Square
    yield _path(_get(exception, "__dict__"), "code")  # Stripe; aiohttp's is a property, its status, and warns
    yield _path(_get(exception, "json_body"), "error", "code")  # Stripe, of a 429
    body = _body(response)
    if body is not None:
        yield body.get("errorCode")  # Adyen
        yield _path(_first(body.get("errors")), "code")  # Square
        yield _path(_first(body.get("details")), "issue")  # PayPal
        for name in ("code", "type", "status"):  # Stripe; Stripe; Google
            yield _path(body, "error", name)


def hides_code(exception: BaseException) -> bool:
    """Tell whether the answer may have a code that is not in the exception: its body was not read, or is not JSON."""
    if isinstance(_get(exception, "response"), Mapping):  # botocore
        return False
    own = cast("Mapping[str, object]", vars(exception))
    has_place = "error_code" in own or "errors" in own or ("code" in own and not isinstance(own["code"], int))  # urllib
    return not has_place and _body(_get(exception, "response")) is None


def told_by(exception: BaseException, codes: Container[object]) -> str:
    """Return what people need to know besides the exception's class: its HTTP status, and its code if it is known.

    Other codes, and all texts, may contain data that must not be shown.
    """
    status, code = status_of(exception), code_of(exception)
    if code not in codes and code not in AWS_CODES and not is_spent(code):
        is_grpc = _has_base(exception, "RpcError") or _has_base(exception, "RPCError")
        code = _grpc_code(exception) if is_grpc else None
    return " ".join(str(each) for each in (status, code) if each is not None)


class _Users(NamedTuple):
    """The user's settings. The user's rules also apply to an exception that another one wraps."""

    rules: Sequence[Rule]
    statuses: Mapping[int, FailureKind]
    client_retries: bool | None

    def wrapped(self, exception: object) -> Reading:
        if not isinstance(exception, BaseException):
            return Reading(_BUG)
        return reading_of(exception, self.rules, self.statuses, client_retries=self.client_retries)

    def kind_of(self, wrapped: object) -> FailureKind:
        return self.wrapped(wrapped).kind

    def reading_of(self, exception: BaseException) -> Reading:
        row = _row_of(type(exception))  # type: ignore[arg-type]  # a class is hashable
        if row is not None:
            library, found, is_own = row
            read = found if isinstance(found, FailureKind) else found(exception, self)
            read = self._of_call(read, exception, library)
            return read if is_own else self._of_call(read, exception, UNKNOWN)
        if status_of(exception) is not None:
            kind = _by_status(exception, self)
        else:
            sqlstate = _sqlstate(exception)
            kind = _BUG if sqlstate is None else _by_sqlstate(sqlstate)
            if kind is _NOT_SENT:  # Snowflake's driver also uses 08001 for a gateway's 504
                kind = _AMBIGUOUS
        return self._of_call(kind, exception, UNKNOWN)

    def _of_call(self, read: FailureKind | Reading, exception: BaseException, library: Library) -> Reading:
        kind, is_proof = (read.kind, read.is_proof) if isinstance(read, Reading) else (read, True)
        return Reading(kind, is_proof and _is_proof(kind, exception, library, self.client_retries))


class _Row(NamedTuple):
    """What is known of a class.

    Attributes:
        library: The library that has a row for the class, or for its nearest base.
        found: What the row says.
        is_own: Whether the class is the library's or the user's own. Another library's may stand for several requests.
    """

    library: Library
    found: FailureKind | _Read
    is_own: bool


@lru_cache(maxsize=512)
def _row_of(of: type[BaseException]) -> _Row | None:
    for each in of.__mro__:
        for module, library, found in _INDEX.get(each.__name__, ()):
            if _within(each.__module__, module):
                is_own = any(_within(of.__module__, package) for package in library.packages.split())
                return _Row(library, found, is_own or not _is_installed(str(of.__module__)))
    return None


def _is_installed(module: str) -> bool:
    path = str(_get(sys.modules.get(module), "__file__"))
    return "site-packages" in path or "dist-packages" in path


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
    # httpx and requests keep the part that has been read here. Their public properties would read on, and may block or
    # raise.
    body = parsed(_get(response, "_content"))
    return cast("Mapping[str, object]", body) if isinstance(body, dict) else None


# --- HTTP ---


def _by_status(exception: BaseException, users: _Users) -> FailureKind:
    status = status_of(exception)
    if status is None:
        return _AMBIGUOUS  # the class shows that there was a response
    kind = users.statuses.get(status)
    if kind is not None:
        return kind
    kind = _of_status(status)
    if is_throttled(status, headers_of(exception), errors_of(exception)):
        return _THROTTLED
    return _REJECTED if kind is _THROTTLED and is_spent(code_of(exception)) else kind


def _of_status(status: int) -> FailureKind:
    if status in HTTP_STATUSES:
        return HTTP_STATUSES[status]
    if 300 <= status < 400:
        return _BUG  # a redirect that was not followed
    return _REJECTED if 400 <= status < 500 else _AMBIGUOUS  # 2xx: it happened, and the answer could not be read


def _status(value: object) -> int | None:
    return int(value) if isinstance(value, int) and 100 <= value < 600 else None


# --- wrappers ---


def _by_reason(exception: BaseException, users: _Users) -> FailureKind:
    # urllib puts an error from connecting or sending there.
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
    # urllib3 says "Unable to connect to proxy" also if a connection is lost after the request.
    return _if_not_sent(users.kind_of(_get(exception, "original_error")))


def _if_not_sent(kind: FailureKind) -> FailureKind:
    return kind if kind is _NOT_SENT else _AMBIGUOUS


def _by_inner_exception(exception: BaseException, users: _Users) -> FailureKind:
    return _if_not_sent(users.kind_of(_get(exception, "inner_exception")))


def _by_cause_if_not_sent(exception: BaseException, users: _Users) -> FailureKind:
    return _if_not_sent(users.wrapped(exception.__cause__).claim)


def _by_cause(exception: BaseException, users: _Users) -> Reading:
    return users.wrapped(exception.__cause__)


def _by_original(exception: BaseException, users: _Users) -> Reading:
    read = users.wrapped(_get(exception, "orig"))
    return Reading(_AMBIGUOUS) if read.kind is _BUG and _get(exception, "connection_invalidated") else read


def _by_exact_class(exception: BaseException, users: _Users) -> FailureKind:
    # pika raises this class if a connection cannot be made. The classes for a lost connection are derived from it.
    del users
    return _NOT_SENT if type(exception).__name__ == "AMQPConnectionError" else _AMBIGUOUS


# --- gRPC ---


def _by_grpc_code(exception: BaseException, users: _Users) -> FailureKind:
    del users
    name = _grpc_code(exception)
    details = _get(exception, "details")
    text = str(details()) if callable(details) else ""
    # The reply is too large for the client, or the stream was reset: the server may have done its work.
    return _AMBIGUOUS if _is_made_up(text) else GRPC_CODES.get(str(name), _AMBIGUOUS)


def _is_made_up(text: str) -> bool:
    return "message larger than max" in text or "RST_STREAM" in text


def _grpc_code(exception: BaseException) -> str | None:
    code = _get(exception, "code")
    name = _get(code() if callable(code) else _get(exception, "status"), "name")  # grpcio; temporalio's RPCError
    return name if isinstance(name, str) and name in GRPC_CODES else None


# --- Google ---


def _by_google(exception: BaseException, users: _Users) -> FailureKind:
    if _status(_get(_get(exception, "response"), "status_code")) is not None:
        return _by_status(exception, users)  # over HTTP
    name = _get(_get(exception, "grpc_status_code"), "name")
    if not isinstance(name, str):
        return _by_status(exception, users)
    return _AMBIGUOUS if _is_made_up(str(exception)) else GRPC_CODES.get(name, _AMBIGUOUS)


# --- mail ---


def _by_smtp(exception: BaseException, users: _Users) -> FailureKind:
    # RFC 5321, 4.2.1: 4yz and 5yz say that the server has not accepted the mail. An error about recipients means that
    # all of them were refused.
    del users
    recipients: Any = _get(exception, "recipients")
    if isinstance(recipients, Mapping):  # smtplib
        codes: list[Any] = [reply[0] for reply in cast("Mapping[str, Any]", recipients).values()]
    elif isinstance(recipients, list):  # aiosmtplib
        codes = [_get(each, "code") for each in cast("list[object]", recipients)]
    else:
        codes = [_get(exception, "smtp_code") or _get(exception, "code")]
    if not codes or not all(isinstance(code, int) and 400 <= code < 600 for code in codes):
        return _AMBIGUOUS
    return _REJECTED if all(code >= 500 for code in codes) else _THROTTLED


# --- AWS ---


def _by_aws_code(exception: BaseException, users: _Users) -> FailureKind:
    code = code_of(exception) or ""
    if code == "TransactionCanceledException":
        return _of_cancelled_transaction(_path(_get(exception, "response"), "CancellationReasons"))
    return AWS_CODES.get(code) or _by_status(exception, users)


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


_POSTGRES_CONNECTS = ("connection to server ", "could not connect to server", "could not translate host name ")


def _by_postgres(exception: BaseException, users: _Users) -> FailureKind:
    del users
    state = _sqlstate(exception)
    if state is not None:
        return _by_sqlstate(state)
    if _has_base(exception, "OperationalError"):
        # No state: the connection was lost, or never made. psycopg shows which: an error from connecting has a
        # `pgconn`. libpq gives such an error no state either, only the server's text.
        # psycopg2 does not show which, but libpq's text does. libpq comes without translations.
        is_of_connecting = str(exception).startswith(_POSTGRES_CONNECTS)
        if _get(exception, "pgconn") is None and (hasattr(exception, "pgconn") or not is_of_connecting):
            return _AMBIGUOUS
        return _AUTH if "authentication failed" in str(exception) else _NOT_SENT
    return _BUG  # psycopg raised it before it sent anything: a wrong type, a closed cursor


def _by_sqlite(exception: BaseException, users: _Users) -> FailureKind | Reading:
    del users
    name = _get(exception, "sqlite_errorname")
    if name == "SQLITE_CONSTRAINT_TRIGGER":
        return Reading(_REJECTED, is_proof=False)  # RAISE(FAIL) does not undo what came before
    if isinstance(name, str):
        return SQLITE_NAMES.get(name.split("_")[1], _BUG)
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return _REJECTED
    text = str(exception)
    return next((kind for start, kind in SQLITE_TEXTS.items() if text.startswith(start)), _BUG)


def _by_mysql(exception: BaseException, users: _Users) -> FailureKind:
    del users
    number = _get(exception, "errno") or (exception.args[0] if exception.args else None)
    if number == 1290 and "read-only" not in str(exception):
        return _REJECTED  # another option of the server's
    if isinstance(number, int) and number in MYSQL_NUMBERS:
        return MYSQL_NUMBERS[number]
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return _REJECTED
    return _BUG if _has_base(exception, "ProgrammingError") else _AMBIGUOUS


def _by_oracle(exception: BaseException, users: _Users) -> FailureKind:
    del users
    told = exception.args[0] if exception.args else None
    number = _get(told, "code")
    code = f"ORA-{number:05}" if isinstance(number, int) and number else _get(told, "full_code")
    if isinstance(code, str) and code in ORACLE_CODES:
        return ORACLE_CODES[code]
    if isinstance(number, int) and 20000 <= number < 21000:
        return _REJECTED  # raise_application_error
    if _has_base(exception, "IntegrityError") or _has_base(exception, "DataError"):
        return _REJECTED
    is_bug = _has_base(exception, "ProgrammingError") or _has_base(exception, "InterfaceError")
    return _BUG if is_bug else _AMBIGUOUS


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
    # A second attempt of a commit that fails has this label too, but the first one was sent.
    return _AMBIGUOUS if not callable(labels) or labels("UnknownTransactionCommitResult") else _NOT_SENT


# --- classes ---

_Read = Callable[[BaseException, _Users], "FailureKind | Reading"]

_READERS: Mapping[Reader, _Read] = {
    Reader.STATUS: _by_status,
    Reader.REASON: _by_reason,
    Reader.ARGUMENT: _by_argument,
    Reader.ORIGINAL_ERROR: _by_original_error,
    Reader.ORIGINAL: _by_original,
    Reader.INNER_EXCEPTION: _by_inner_exception,
    Reader.CAUSE: _by_cause,
    Reader.CAUSE_IF_NOT_SENT: _by_cause_if_not_sent,
    Reader.EXACT_CLASS: _by_exact_class,
    Reader.GRPC_CODE: _by_grpc_code,
    Reader.AWS_CODE: _by_aws_code,
    Reader.GOOGLE: _by_google,
    Reader.SMTP: _by_smtp,
    Reader.POSTGRES: _by_postgres,
    Reader.SQLITE: _by_sqlite,
    Reader.MYSQL: _by_mysql,
    Reader.ORACLE: _by_oracle,
    Reader.MONGO: _by_mongo,
    Reader.MONGO_CONNECTION: _by_mongo_connection,
}


def _index() -> Mapping[str, Sequence[tuple[str, Library, FailureKind | _Read]]]:
    index: dict[str, list[tuple[str, Library, FailureKind | _Read]]] = {}
    for library in LIBRARIES:
        for means, names in library.classes:
            found = _READERS[means] if isinstance(means, Reader) else means
            for name in names.split():
                index.setdefault(name, []).extend((package, library, found) for package in library.packages.split())
    return index


def _packages() -> Mapping[str, Sequence[tuple[str, Library]]]:
    packages: dict[str, list[tuple[str, Library]]] = {}
    for library in LIBRARIES:
        for package in library.packages.split():
            packages.setdefault(package.partition(".")[0], []).append((package, library))
    return packages


_INDEX = _index()
_PACKAGES = _packages()
