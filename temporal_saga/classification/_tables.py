"""What exceptions mean, as data: by class, HTTP status, gRPC code, AWS code and SQLSTATE.

No library is imported: a class is known by its name and its module.

A kind whose effect is "none" is proof, and lets a saga leave a step as it is. So a kind without an effect stands here
only if nothing can have taken effect. Whatever may mean either is AMBIGUOUS, and an exception that no table knows is a
BUG. Three limits:

- A failure speaks for the call that raised it. An activity that has had another effect before has to say so itself.
- A client that tries again, or follows a redirect, by itself shows the last failure only. If the exception shows it
  (botocore's count, a response's history), proof becomes AMBIGUOUS. Most clients do not show it: switch it off.
- `raise X from error` means X. The user chose to hide the cause, and X may come after other effects, so `__cause__` is
  not followed. Libraries that wrap others' errors in an attribute of their own are unwrapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto

from temporal_saga.errors import FailureKind

__all__ = [
    "AWS_CANCELLATION_REASONS",
    "AWS_CODES",
    "CLASSES",
    "GRPC_CODES",
    "HTTP_STATUSES",
    "MYSQL_NUMBERS",
    "SQLITE_NAMES",
    "SQLITE_TEXTS",
    "SQLSTATES",
    "Reader",
]

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


class Reader(Enum):
    """What decides if the class of an exception alone does not: something that the exception carries."""

    STATUS = auto()
    AIOHTTP_STATUS = auto()
    REASON = auto()
    ARGUMENT = auto()
    ORIGINAL_ERROR = auto()
    ORIGINAL = auto()
    GRPC_CODE = auto()
    AWS_CODE = auto()
    POSTGRES = auto()
    SQLITE = auto()
    MYSQL = auto()
    MONGO = auto()
    MONGO_CONNECTION = auto()


HTTP_STATUSES: Mapping[int, FailureKind] = {
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

# A status comes from the server, or the client library makes it up (gRPC's doc/statuscodes.md). The two look alike: a
# server that hands on the failure of a call of its own may say "failed to connect to all addresses", after an effect.
# So no text makes UNAVAILABLE proof.
GRPC_CODES: Mapping[str, FailureKind] = {
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

AWS_CODES: Mapping[str, FailureKind] = {
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
AWS_CANCELLATION_REASONS: Mapping[str, FailureKind] = {
    "None": CONFLICT,
    "TransactionConflict": CONFLICT,
    "ProvisionedThroughputExceeded": THROTTLED,
    "ThrottlingError": THROTTLED,
}

# By state, else by class (the first two characters). An ERROR rolls its transaction back. An error that ends the
# connection may come after a COMMIT took effect and before it was acknowledged. The error does not tell whether it was
# a COMMIT: psycopg raises the same for both, and SQLAlchemy knows the statement but not whether it commits by itself.
# So all of these are AMBIGUOUS.
SQLSTATES: Mapping[str, FailureKind] = {
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

# By the second word of its name: SQLITE_BUSY_SNAPSHOT is a SQLITE_BUSY.
SQLITE_NAMES: Mapping[str, FailureKind] = {
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
SQLITE_TEXTS: Mapping[str, FailureKind] = {
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

# Client and server error numbers. 2006 and 2013 may come from a COMMIT, as with PostgreSQL.
MYSQL_NUMBERS: Mapping[int, FailureKind] = {
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

# Packages, what their classes mean, and the names of these classes. The nearest class of an exception's bases decides,
# so a library's catch-all does not hide a class that has a row of its own.
CLASSES: Sequence[tuple[str, FailureKind | Reader, str]] = (
    # Python. Not here, hence BUG: PermissionError, FileExistsError, BlockingIOError and other OSErrors. They come from
    # files and locks as well, perhaps after the effect.
    ("builtins", NOT_SENT, "ConnectionRefusedError"),
    ("builtins", AMBIGUOUS, "ConnectionError EOFError TimeoutError"),
    ("asyncio", AMBIGUOUS, "TimeoutError"),  # a class of its own before Python 3.11, and the next one
    ("concurrent.futures", AMBIGUOUS, "BrokenExecutor TimeoutError"),
    ("asyncio", CANCELLED, "CancelledError"),
    ("concurrent.futures", CANCELLED, "CancelledError"),
    ("temporalio", CANCELLED, "CancelledError"),
    ("temporalio", Reader.GRPC_CODE, "RPCError"),
    ("socket", NOT_SENT, "gaierror herror"),
    ("ssl", NOT_SENT, "SSLCertVerificationError"),
    ("ssl", AMBIGUOUS, "SSLError"),
    ("http.client", AMBIGUOUS, "HTTPException"),
    ("http.client", BUG, "ImproperConnectionState InvalidURL NotConnected"),
    ("urllib.error", Reader.STATUS, "HTTPError"),
    ("urllib.error", Reader.REASON, "URLError"),
    ("subprocess", AMBIGUOUS, "TimeoutExpired"),
    # httpx; httpx2 is the same library under another name.
    ("httpx httpx2", NOT_SENT, "ConnectError ConnectTimeout PoolTimeout ProxyError"),
    ("httpx httpx2", AMBIGUOUS, "DecodingError TransportError"),
    ("httpx httpx2", BUG, "LocalProtocolError TooManyRedirects UnsupportedProtocol"),
    ("httpx httpx2", Reader.STATUS, "HTTPStatusError"),
    # requests and urllib3
    ("requests", NOT_SENT, "ConnectTimeout"),
    ("requests", AMBIGUOUS, "RequestException"),
    ("requests", BUG, "InvalidHeader InvalidSchema InvalidURL MissingSchema TooManyRedirects URLRequired"),
    ("requests", Reader.ARGUMENT, "ConnectionError"),
    ("requests", Reader.STATUS, "HTTPError"),
    ("urllib3", NOT_SENT, "ConnectTimeoutError EmptyPoolError"),
    ("urllib3", Reader.ORIGINAL_ERROR, "ProxyError"),
    ("urllib3", AMBIGUOUS, "HTTPError MaxRetryError"),  # of several tries; requests makes one
    ("urllib3", BUG, "LocationValueError"),
    ("urllib3", Reader.ARGUMENT, "SSLError"),
    # aiohttp sends a PUT or DELETE again by itself when its connection is lost, with no way to switch that off. So a
    # refused connection proves nothing, and the error does not say what the method was.
    ("aiohttp", AMBIGUOUS, "ClientError ClientHttpProxyError"),
    ("aiohttp", AMBIGUOUS, "InvalidUrlRedirectClientError NonHttpUrlRedirectClientError"),
    ("aiohttp", BUG, "InvalidURL NonHttpUrlClientError"),
    ("aiohttp", Reader.AIOHTTP_STATUS, "ClientResponseError"),
    # gRPC
    ("grpc", AMBIGUOUS, "FutureTimeoutError"),
    ("grpc", CANCELLED, "FutureCancelledError"),
    ("grpc", Reader.GRPC_CODE, "RpcError"),
    # AWS: botocore tries again by itself unless it is told not to, and its connection errors do not say how often.
    ("botocore", AMBIGUOUS, "ConnectionError HTTPClientError IncompleteReadError"),
    ("botocore", AUTH, "CredentialRetrievalError LoginError NoAuthTokenError NoCredentialsError"),
    ("botocore", AUTH, "PartialCredentialsError ProfileNotFound SSOError TokenRetrievalError"),
    ("botocore", REJECTED, "ParamValidationError"),
    ("botocore", Reader.AWS_CODE, "ClientError"),
    # PostgreSQL, SQLite, MySQL, SQLAlchemy. A duplicate key is REJECTED: whether the row that is there is one's own
    # cannot be told here.
    ("psycopg", NOT_SENT, "ConnectionTimeout"),
    ("psycopg", Reader.POSTGRES, "Error"),
    ("psycopg2", Reader.POSTGRES, "Error"),
    ("psycopg_pool", NOT_SENT, "PoolTimeout TooManyRequests"),
    ("psycopg_pool", BUG, "PoolClosed"),
    ("sqlite3", Reader.SQLITE, "Error"),
    ("mysql", Reader.MYSQL, "Error"),
    ("MySQLdb", Reader.MYSQL, "MySQLError"),
    ("pymysql", Reader.MYSQL, "MySQLError"),
    ("sqlalchemy", NOT_SENT, "TimeoutError"),  # of the pool
    ("sqlalchemy", AMBIGUOUS, "DisconnectionError"),
    ("sqlalchemy", CONFLICT, "StaleDataError"),
    ("sqlalchemy", Reader.ORIGINAL, "StatementError"),
    # MongoDB: a bulk write may have been done in part, a write concern's failure says nothing of the write.
    ("pymongo", Reader.MONGO_CONNECTION, "ServerSelectionTimeoutError WaitQueueTimeoutError"),
    ("pymongo", REJECTED, "DocumentTooLarge DuplicateKeyError WriteError"),
    ("pymongo", AMBIGUOUS, "BulkWriteError ClientBulkWriteException WriteConcernError"),
    ("pymongo", BUG, "ConfigurationError InvalidName InvalidOperation"),
    ("pymongo", Reader.MONGO, "PyMongoError"),
    # Redis: redis-py tries again by itself unless it is told not to, so its connection errors prove nothing. valkey is
    # its fork, with the same classes.
    ("redis valkey", AMBIGUOUS, "ConnectionError TimeoutError"),
    ("redis valkey", NOT_SENT, "MaxConnectionsError"),
    ("redis valkey", THROTTLED, "OutOfMemoryError"),
    ("redis valkey", CONFLICT, "AskError ClusterDownError ReadOnlyError TryAgainError WatchError"),
    ("redis valkey", REJECTED, "ExecAbortError NoScriptError"),
    ("redis valkey", AUTH, "AuthenticationError AuthorizationError NoPermissionError"),
    # Stripe: its SDK tries again by itself unless it is told not to. Its other errors go by their status.
    ("stripe", AMBIGUOUS, "APIConnectionError"),
    ("stripe", DECLINED, "CardError"),
    ("stripe", KEY_MISUSE, "IdempotencyError"),
    ("stripe", THROTTLED, "RateLimitError"),
    ("stripe", AUTH, "AuthenticationError PermissionError"),
    ("stripe", Reader.STATUS, "StripeError"),
    # The SDKs of language models: an error with an answer goes by its status.
    ("anthropic", AMBIGUOUS, "APIConnectionError"),
    ("openai", AMBIGUOUS, "APIConnectionError"),
)
