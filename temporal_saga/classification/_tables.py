"""The meaning of exceptions, as data: by HTTP status, gRPC code, AWS code, SQLSTATE and other numbers.

No library is imported: a class is known by its name and its module.

A kind whose effect is "none" is a proof: the saga does not undo the step. So a table has such a kind only if the failed
request cannot have taken effect. A value that may mean either is AMBIGUOUS, and an exception that no table knows is a
BUG. Three limits:

- A failure speaks only for the call that raised it. If the activity has had another effect before, it has to say so.
- If a client sends more than one request in a call, it shows only the failure of the last one. `_libraries` lists these
  clients, and `_evidence` reads what their exceptions show of the other requests.
- `raise X from error` means X. The user chose to hide the cause, and X may come after other effects, so `__cause__` is
  not followed. If a library wraps another library's error in an attribute, that error is unwrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from temporal_saga.errors import FailureKind

__all__ = [
    "AWS_CANCELLATION_REASONS",
    "AWS_CODES",
    "GRPC_CODES",
    "HTTP_STATUSES",
    "MYSQL_NUMBERS",
    "ORACLE_CODES",
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
    """The part of an exception that decides, if its class alone does not."""

    STATUS = auto()
    REASON = auto()
    ARGUMENT = auto()
    ORIGINAL_ERROR = auto()
    ORIGINAL = auto()
    INNER_EXCEPTION = auto()
    CAUSE = auto()
    CAUSE_IF_NOT_SENT = auto()
    EXACT_CLASS = auto()
    GRPC_CODE = auto()
    AWS_CODE = auto()
    GOOGLE = auto()
    SMTP = auto()
    POSTGRES = auto()
    SQLITE = auto()
    MYSQL = auto()
    ORACLE = auto()
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

# A status comes from the server, or the client library makes it up (gRPC's doc/statuscodes.md). The two look alike: if
# a server passes on the failure of one of its own calls, it may say "failed to connect to all addresses" after an
# effect. So no text makes UNAVAILABLE a proof.
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

# DynamoDB's reasons for a cancelled transaction, one for each item.
AWS_CANCELLATION_REASONS: Mapping[str, FailureKind] = {
    "None": CONFLICT,
    "TransactionConflict": CONFLICT,
    "ProvisionedThroughputExceeded": THROTTLED,
    "ThrottlingError": THROTTLED,
}

# By state, or else by class (the first two characters). An ERROR rolls its transaction back. An error that ends the
# connection may come after a COMMIT took effect and before it was acknowledged. The error does not say whether it was a
# COMMIT: psycopg raises the same for both, and SQLAlchemy knows the statement but not whether it commits by itself. So
# all of these are AMBIGUOUS.
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
    "57P05": NOT_SENT,  # idle, so nothing was in progress
    "58": AMBIGUOUS,
    "P0001": REJECTED,  # raised by a function or a trigger
    "XX": AMBIGUOUS,
}

# By the second word of the name: SQLITE_BUSY_SNAPSHOT is a SQLITE_BUSY.
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
    1290: CONFLICT,  # read-only: a replica that was the primary before; the number has other meanings, see the reader
    1644: REJECTED,  # SIGNAL: raised by a procedure or a trigger
    1698: AUTH,
    1792: REJECTED,  # a read-only transaction
    1836: CONFLICT,  # read-only mode
    2002: NOT_SENT,
    2003: NOT_SENT,
    2005: NOT_SENT,
    3101: CONFLICT,  # group replication rolled the transaction back
    3572: CONFLICT,  # NOWAIT
    3819: REJECTED,  # a CHECK constraint; MariaDB's is 4025
    4025: REJECTED,
}

# ORA-: from the server. The failure of a lock rolls back only the statement, like MySQL's 1205. DPY-: from the driver.
ORACLE_CODES: Mapping[str, FailureKind] = {
    "ORA-00001": REJECTED,
    "ORA-00018": NOT_SENT,  # too many sessions
    "ORA-00020": NOT_SENT,  # too many processes
    "ORA-00054": CONFLICT,  # NOWAIT
    "ORA-00060": CONFLICT,  # deadlock
    "ORA-01017": AUTH,
    "ORA-01031": AUTH,
    "ORA-01400": REJECTED,
    "ORA-01438": REJECTED,
    "ORA-01722": REJECTED,
    "ORA-02049": CONFLICT,  # waited too long for a lock
    "ORA-02290": REJECTED,
    "ORA-02291": REJECTED,
    "ORA-02292": REJECTED,
    "ORA-08177": CONFLICT,  # serialization
    "ORA-12899": REJECTED,
    "ORA-28000": AUTH,
    "ORA-28001": AUTH,
    "ORA-30006": CONFLICT,  # waited too long for a lock
    "DPY-6000": NOT_SENT,  # the listener refused the connection
    "DPY-6001": NOT_SENT,  # the listener has no such service
    "DPY-6003": NOT_SENT,  # the listener has no such SID
    "DPY-6005": NOT_SENT,  # cannot connect
}
