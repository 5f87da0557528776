"""The known libraries, one row each: what their classes mean, and whether one call may send several requests.

An error describes the last request of its call. If the call has sent others before (a retry, a redirect), one of these
may have had its effect. So an error proves "no effect" only if its library sends one request per call, if the exception
shows that there was only one (`evidence`), or if the user says so (`Profile(client_retries=False)`).

`python -m temporal_saga.classification` prints the rows, and so does the page docs/clients.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from temporal_saga.errors import FailureKind

from ._tables import (
    AMBIGUOUS,
    AUTH,
    BUG,
    CANCELLED,
    CONFLICT,
    DECLINED,
    KEY_MISUSE,
    NOT_SENT,
    REJECTED,
    THROTTLED,
    Reader,
)

__all__ = ["AROUND", "HOOKS", "LIBRARIES", "UNKNOWN", "Batches", "Evidence", "Frame", "Library", "Repeats"]


class Repeats(Enum):
    """Whether one call of a library may send more than one request that has an effect."""

    NO = "no"
    OPT_IN = "if told to"
    YES = "yes"


class Evidence(Enum):
    """The place where an exception shows how many requests its call has sent. The text is for people."""

    RESPONSE = "`response.history`, `response.raw.retries.history`"
    STAINLESS = "header `x-stainless-retry-count` of the request"
    BOTOCORE = "`RetryAttempts` in the response's metadata"
    AIOHTTP = "its traceback, `history`, `request_info.method`"
    METHOD = "`method`: POST and PATCH are not sent again"


@dataclass(frozen=True)
class Frame:
    """A library's function that, in the traceback of an exception, shows how many requests there were.

    Attributes:
        modules: The modules of the function, in one string.
        functions: Its names, in one string.
        counter: Its local variable, or an attribute of that: a number, or a list of earlier requests. If it is empty,
            the function calls itself for each further request.
        first: The highest value of the counter in the first request.
        is_certain: Whether a higher counter shows further requests. redis-py counts the last failure in some cases.
        of: The classes of the function's `self`, in one string, if other classes have a function of that name.
        commands: The commands that count, in one string; empty if all do. A command is the first item of `args`.
    """

    modules: str
    functions: str
    counter: str = ""
    first: int = 0
    is_certain: bool = True
    of: str = ""
    commands: str = ""


@dataclass(frozen=True)
class Batches:
    """The calls of a database driver, or of a library around drivers, that may be done in part.

    Attributes:
        several: Functions that run several statements. In autocommit mode each statement commits by itself.
        named: The same for functions that are not written in Python: a traceback shows only callers that name them.
        procedures: Functions that call a procedure.
        procedures_commit: Whether a procedure may commit although its caller is in a transaction.
        begins_by_itself: Whether the driver begins a transaction only before some statements.
        mark: The attribute that an error of the database has, and one that was made by hand does not have.
    """

    several: Sequence[Frame] = ()
    named: frozenset[str] = frozenset()
    procedures: Sequence[Frame] = ()
    procedures_commit: bool = False
    begins_by_itself: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Library:
    """What is known about a library.

    Attributes:
        packages: The packages of its exceptions, in one string.
        repeats: Whether a call may send more than one request.
        classes: The meaning of exceptions, and their names. The nearest class among an exception's bases decides, so a
            library's catch-all class does not hide a class that has its own row.
        why: What it sends again, for people.
        switch: How to make it send one request per call, for people.
        evidence: Where its exceptions show how many requests there were.
        before: Classes of errors that come before the first request is sent.
        many: Functions that have several effects in one call. One effect may stand when another one fails.
        batches: The same, if the connection may be in autocommit mode. None if the library is not for a database.
        sends: The packages of its functions that send, if they are not in `packages`, in one string.
        status: The attribute with the HTTP status, if its exceptions have no headers.
        provider: The built-in profile for the library's exceptions.
    """

    packages: str
    repeats: Repeats
    classes: Sequence[tuple[FailureKind | Reader, str]] = ()
    why: str = ""
    switch: str = ""
    evidence: Sequence[Evidence | Frame] = ()
    before: str = ""
    many: Sequence[Frame] = ()
    batches: Batches | None = None
    sends: str = ""
    status: str = ""
    provider: str = ""


UNKNOWN = Library("any other", Repeats.YES, why="not known", evidence=[Evidence.STAINLESS])
"""A library that has no row."""

_TENACITY = (
    Frame("tenacity tenacity.asyncio", "__call__ __iter__", "retry_state.attempt_number", first=1),
    Frame("tenacity.asyncio", "__anext__", "self._retry_state.attempt_number", first=1),
)

AROUND: Sequence[Frame] = (
    # They call again.
    *_TENACITY,
    Frame("stamina._core", "__call__ sync_inner async_inner", "attempt.num", first=1),
    Frame("backoff._sync backoff._async", "retry", "tries", first=1),
    Frame("aiohttp_retry.client", "_do_request", "current_attempt", first=1),
    Frame("xmlrpc.client", "request", "i"),  # after a lost connection
    # They call several times. An agent calls its tools between two requests to its model.
    Frame("django.core.mail.backends.smtp", "send_messages", "email_messages", first=1),
    Frame("sqlalchemy.orm.session", "commit", "self._connections", first=2),  # two keys for each connection
    Frame(
        "google.genai.models", "generate_content generate_content_stream", "automatic_function_calling_history"
    ),  # the model's own calls of functions
    Frame("agents.run", "*"),
    Frame("pydantic_ai._agent_graph", "*"),
    # They call the user's code, perhaps after a commit or an answer.
    Frame("django.db.backends.base.base", "on_commit run_and_clear_commit_hooks"),
    Frame("django.dispatch.dispatcher", "asend send"),
    Frame("sqlalchemy.event.attr", "__call__"),
    Frame("aiohttp.client_middlewares aiohttp.tracing", "*"),
)
"""Functions around the calls of any library. If a counter is empty, an exception that came through proves nothing."""

HOOKS: Sequence[Frame] = (
    Frame("httpx._client httpx2._client", "_send_handling_redirects", "response"),
    Frame("requests.hooks niquests.hooks", "dispatch_hook async_dispatch_hook", "hook_data"),
)
"""Functions that call the user's code, a function of another module, for the answer in the local variable `counter`."""

_FOLLOWS = "redirects"
_REQUESTS_SENDS = Frame("requests.sessions niquests.sessions niquests.async_session", "send")
_URLLIB3_SENDS = Frame("urllib3.connectionpool", "urlopen")

_MYSQL_CURSORS = (
    "pymysql.cursors MySQLdb.cursors mysql.connector.cursor mysql.connector.cursor_cext mysql.connector.aio.cursor"
)

_SCRIPTS = "EVAL EVALSHA FCALL"  # what a script has written stands when the script fails
_TEMPORAL_CLIENTS = (
    "temporalio.client temporalio.client._client temporalio.client._activity temporalio.client._workflow"
)
_GOOGLE_FUTURES = (
    "google.api_core.extended_operation google.api_core.future.async_future google.api_core.future.polling "
    "google.api_core.operation google.api_core.operation_async"
)
_AZURE_POLLING = (
    "azure.core.polling._async_poller azure.core.polling._poller azure.core.polling.async_base_polling "
    "azure.core.polling.base_polling"
)

_STAINLESS_CLASSES: Sequence[tuple[FailureKind | Reader, str]] = (
    (AMBIGUOUS, "APIError"),
    (Reader.CAUSE_IF_NOT_SENT, "APIConnectionError"),
    (Reader.STATUS, "APIResponseValidationError APIStatusError"),
)

LIBRARIES: Sequence[Library] = (
    # Not listed, so a BUG: PermissionError, FileExistsError, BlockingIOError and other OSErrors. They also come from
    # files and locks, perhaps after the effect.
    Library(
        "builtins asyncio concurrent.futures socket ssl subprocess http.client",
        Repeats.NO,
        [
            (NOT_SENT, "ConnectionRefusedError SSLCertVerificationError gaierror herror"),
            (AMBIGUOUS, "BrokenExecutor ConnectionError EOFError HTTPException SSLError TimeoutError TimeoutExpired"),
            (BUG, "ImproperConnectionState InvalidURL NotConnected"),
            (CANCELLED, "CancelledError"),
        ],
    ),
    Library(
        "urllib.error",
        Repeats.YES,
        [(Reader.STATUS, "HTTPError"), (Reader.REASON, "URLError")],
        why=_FOLLOWS,
        switch="an opener whose `HTTPRedirectHandler.redirect_request` returns None",
        evidence=[Frame("urllib.request", "open")],
        sends="urllib.request",
    ),
    Library(
        "smtplib aiosmtplib",
        Repeats.NO,
        [
            (AMBIGUOUS, "SMTPException SMTPServerDisconnected SMTPTimeoutError"),
            (NOT_SENT, "SMTPConnectError SMTPConnectTimeoutError SMTPConnectResponseError SMTPHeloError"),
            (AUTH, "SMTPAuthenticationError"),
            (REJECTED, "SMTPNotSupported SMTPNotSupportedError"),
            (Reader.SMTP, "SMTPDataError SMTPRecipientRefused SMTPRecipientsRefused SMTPSenderRefused"),
        ],
        many=[Frame("smtplib", "sendmail", of="LMTP")],  # one answer for each recipient, and it reads only the first
    ),
    # httpx2 is the same library under another name. It retries only connecting.
    Library(
        "httpx httpx2",
        Repeats.OPT_IN,
        [
            (NOT_SENT, "ConnectError ConnectTimeout PoolTimeout ProxyError"),
            (AMBIGUOUS, "DecodingError TransportError"),
            (BUG, "LocalProtocolError TooManyRedirects UnsupportedProtocol"),
            (Reader.STATUS, "HTTPStatusError"),
        ],
        why="redirects, digest auth, a transport that retries",
        switch="the default: `follow_redirects=False`",
        evidence=[Frame("httpx._client httpx2._client", "_send_handling_redirects", "history")],
    ),
    Library(
        "requests niquests",
        Repeats.YES,
        [
            (NOT_SENT, "ConnectTimeout"),
            (AMBIGUOUS, "RequestException"),
            (BUG, "InvalidHeader InvalidSchema InvalidURL MissingSchema TooManyRedirects URLRequired"),
            (Reader.ARGUMENT, "ConnectionError"),
            (Reader.STATUS, "HTTPError"),
        ],
        why="redirects; retries with a `Retry` in an adapter",
        switch="`allow_redirects=False`, and no `Retry`",
        evidence=[Evidence.RESPONSE, _REQUESTS_SENDS, _URLLIB3_SENDS],
    ),
    # The last of several attempts is a MaxRetryError, but a pool without a free connection shows in any attempt.
    Library(
        "urllib3 urllib3_future",
        Repeats.YES,
        [
            (NOT_SENT, "ConnectTimeoutError EmptyPoolError"),
            (Reader.ORIGINAL_ERROR, "ProxyError"),
            (AMBIGUOUS, "HTTPError MaxRetryError"),
            (BUG, "LocationValueError"),
            (Reader.ARGUMENT, "SSLError"),
        ],
        why="PUT and DELETE after a lost connection, redirects",
        switch="`retries=False`",
        evidence=[_URLLIB3_SENDS, Frame("urllib3.poolmanager", "urlopen")],
    ),
    Library(
        "aiohttp",
        Repeats.YES,
        [
            (AMBIGUOUS, "ClientError ClientHttpProxyError"),
            (AMBIGUOUS, "InvalidUrlRedirectClientError NonHttpUrlRedirectClientError"),
            (NOT_SENT, "ClientConnectorCertificateError ClientConnectorError ConnectionTimeoutError"),
            (BUG, "InvalidURL NonHttpUrlClientError"),
            (Reader.STATUS, "ClientResponseError"),
        ],
        why="PUT and DELETE after a lost connection, redirects; what a middleware or aiohttp-retry sends",
        switch="`allow_redirects=False`; PUT and DELETE have none",
        evidence=[Evidence.AIOHTTP],
    ),
    Library(
        "grpc",
        Repeats.OPT_IN,
        [(AMBIGUOUS, "FutureTimeoutError"), (CANCELLED, "FutureCancelledError"), (Reader.GRPC_CODE, "RpcError")],
        why="a `retryPolicy` in the service config, an interceptor that retries",
        switch="the default; or the channel option `grpc.enable_retries` 0",
        # A server may act on each message of a stream.
        many=[
            Frame("grpc._channel", "__call__", of="_StreamUnaryMultiCallable"),
            Frame("grpc._channel", "_next"),
            Frame("grpc.aio._call", "*", of="StreamStreamCall StreamUnaryCall UnaryStreamCall"),
        ],
    ),
    Library(
        "grpclib",
        Repeats.NO,
        [(Reader.GRPC_CODE, "GRPCError"), (AMBIGUOUS, "ProtocolError StreamTerminatedError")],
        many=[Frame("grpclib.client", "__call__", of="StreamStreamMethod StreamUnaryMethod UnaryStreamMethod")],
    ),
    Library(
        "temporalio",
        Repeats.YES,
        [(CANCELLED, "CancelledError"), (Reader.GRPC_CODE, "RPCError")],
        why="calls of its client",
        switch="`Client.connect(..., retry_config=RetryConfig(max_retries=1))`: one try",
        # They start, and then ask for the result.
        many=[
            Frame(_TEMPORAL_CLIENTS, "execute_activity execute_update execute_update_with_start_workflow"),
            Frame(_TEMPORAL_CLIENTS, "execute_workflow result"),
        ],
        sends="temporalio.client temporalio.service",
    ),
    Library(
        "google.api_core",
        Repeats.YES,
        [(Reader.GOOGLE, "GoogleAPICallError"), (AMBIGUOUS, "GoogleAPIError RetryError")],
        why="calls, by the defaults of each method",
        switch="`retry=None` for a call",
        evidence=[
            Frame(
                "google.api_core.retry.retry_unary google.api_core.retry.retry_unary_async",
                "retry_target",
                "error_list",
                first=1,
            )
        ],
        many=[
            Frame("google.cloud.storage.batch", "__exit__ finish"),
            Frame("google.cloud.storage.bucket", "copy_blob delete delete_blobs make_private make_public rename_blob"),
            Frame("google.cloud.storage.blob", "rewrite update_storage_class"),
            Frame(_GOOGLE_FUTURES, "*"),
        ],
        status="code",
        provider="google",
    ),
    Library(
        "google.auth",
        Repeats.YES,
        [(AUTH, "DefaultCredentialsError RefreshError"), (AMBIGUOUS, "TransportError")],
        why="calls that it authorizes",
        switch="that of the library which calls it",
        before="DefaultCredentialsError",
    ),
    Library(
        "google.genai",
        Repeats.YES,
        [(Reader.STATUS, "APIError")],
        why="calls with `HttpRetryOptions`, redirects",
        switch="no `HttpRetryOptions`, and a client that follows no redirects",
        provider="google",
    ),
    Library(
        "botocore",
        Repeats.YES,
        [
            (AMBIGUOUS, "ConnectionError HTTPClientError IncompleteReadError"),
            (NOT_SENT, "ConnectTimeoutError EndpointConnectionError"),
            (AUTH, "CredentialRetrievalError LoginError NoAuthTokenError NoCredentialsError"),
            (AUTH, "PartialCredentialsError ProfileNotFound SSOError TokenRetrievalError"),
            (REJECTED, "ParamValidationError"),
            (Reader.AWS_CODE, "ClientError"),
        ],
        why="calls",
        switch='`Config(retries={"total_max_attempts": 1})`',
        evidence=[Evidence.BOTOCORE],
        before="NoCredentialsError ParamValidationError PartialCredentialsError ProfileNotFound",
        many=[Frame("boto3.dynamodb.table", "_flush"), Frame("boto3.resources.collection", "batch_action")],
    ),
    # The error of a request that was not sent. But over aiohttp, a lost connection raises it too.
    Library(
        "azure",
        Repeats.YES,
        [
            (AMBIGUOUS, "AzureError"),
            (Reader.INNER_EXCEPTION, "ServiceRequestError"),
            (Reader.STATUS, "HttpResponseError"),
        ],
        why="calls, redirects",
        switch="`retry_total=0` and `permit_redirects=False` for the client",
        many=[
            Frame(_AZURE_POLLING, "*"),
            Frame(
                "azure.storage.blob._upload_helpers azure.storage.blob.aio._upload_helpers",
                "upload_append_blob upload_page_blob",
            ),
        ],
    ),
    # PostgreSQL, SQLite, MySQL, Oracle. A duplicate key is REJECTED: nothing here shows whether the existing row is the
    # activity's own.
    Library(
        "psycopg",
        Repeats.NO,
        [(NOT_SENT, "ConnectionTimeout"), (Reader.POSTGRES, "Error")],
        # A pipeline may commit several times, and the error of one statement shows in the call of another.
        many=[
            Frame("psycopg._pipeline psycopg._pipeline_async", "__aexit__ __exit__ sync"),
            Frame("psycopg.cursor psycopg.cursor_async", "_fetch_pipeline"),
        ],
        batches=Batches([Frame("psycopg.cursor psycopg.cursor_async", "executemany")], mark="_info"),
    ),
    Library(
        "psycopg2",
        Repeats.NO,
        [(Reader.POSTGRES, "Error")],
        batches=Batches(
            [Frame("psycopg2.extras", "execute_batch execute_values")], named=frozenset({"executemany"}), mark="pgcode"
        ),
    ),
    Library("psycopg_pool", Repeats.NO, [(NOT_SENT, "PoolTimeout TooManyRequests"), (BUG, "PoolClosed")]),
    # Its `executemany` is one transaction, also in autocommit mode.
    Library("asyncpg", Repeats.NO, [(Reader.POSTGRES, "PostgresError")], batches=Batches(mark="severity")),
    Library(
        "sqlite3",
        Repeats.NO,
        [(Reader.SQLITE, "Error")],
        batches=Batches(
            named=frozenset({"executemany", "executescript"}), begins_by_itself=True, mark="sqlite_errorname"
        ),
    ),
    # A second statement of one query fails in `nextset`.
    Library(
        "mysql MySQLdb pymysql",
        Repeats.NO,
        [(Reader.MYSQL, "Error MySQLError")],
        batches=Batches(
            [Frame(_MYSQL_CURSORS, "executemany nextset _nextset")],
            procedures=[Frame(_MYSQL_CURSORS, "callproc")],
            procedures_commit=True,
        ),
    ),
    Library(
        "oracledb",
        Repeats.NO,
        [(Reader.ORACLE, "Error")],
        many=[Frame("oracledb.connection", "_run_pipeline run_pipeline")],
        batches=Batches(
            [Frame("oracledb.cursor", "executemany")],
            procedures=[Frame("oracledb.connection oracledb.cursor", "callfunc callproc")],
            procedures_commit=True,
        ),
    ),
    Library(
        "sqlalchemy",
        Repeats.NO,
        [
            (NOT_SENT, "TimeoutError"),  # of the pool
            (AMBIGUOUS, "DisconnectionError"),
            (CONFLICT, "StaleDataError"),
            (Reader.ORIGINAL, "StatementError"),
        ],
        batches=Batches(
            [
                Frame("sqlalchemy.engine.base", "_exec_insertmany_context"),
                Frame("sqlalchemy.engine.default sqlalchemy.dialects.postgresql.psycopg2", "do_executemany"),
                Frame("sqlalchemy.orm.bulk_persistence", "_bulk_insert _bulk_update"),
                Frame("sqlalchemy.orm.session", "_bulk_save_mappings _flush"),
            ]
        ),
    ),
    # Each of its errors wraps the error of one statement.
    Library(
        "django.db.utils",
        Repeats.NO,
        [(Reader.CAUSE, "Error")],
        batches=Batches([Frame("django.db.backends.utils", "_executemany")]),
    ),
    # A bulk write may have been done in part. A write concern's failure says nothing about the write.
    Library(
        "pymongo",
        Repeats.YES,
        [
            (Reader.MONGO_CONNECTION, "ServerSelectionTimeoutError WaitQueueTimeoutError"),
            (REJECTED, "DocumentTooLarge DuplicateKeyError WriteError"),
            (AMBIGUOUS, "BulkWriteError ClientBulkWriteException WriteConcernError"),
            (BUG, "ConfigurationError InvalidName InvalidOperation"),
            (Reader.MONGO, "PyMongoError"),
        ],
        why="writes of one document",
        switch="`MongoClient(retryWrites=False)`",
        evidence=[
            Frame("pymongo.synchronous.mongo_client pymongo.asynchronous.mongo_client", "run", "self._attempt_number")
        ],
        before="DocumentTooLarge",
        many=[
            Frame(
                "pymongo.synchronous.collection pymongo.asynchronous.collection",
                "aggregate bulk_write delete_many insert_many update_many",
            ),
            Frame("pymongo.synchronous.database pymongo.asynchronous.database", "command"),
            Frame("pymongo.synchronous.mongo_client pymongo.asynchronous.mongo_client", "bulk_write"),
            Frame("gridfs.synchronous.grid_file gridfs.asynchronous.grid_file", "*"),
        ],
    ),
    Library(
        "redis",
        Repeats.YES,
        [
            (AMBIGUOUS, "ConnectionError TimeoutError"),
            (NOT_SENT, "MaxConnectionsError"),
            (THROTTLED, "OutOfMemoryError"),
            (CONFLICT, "AskError ClusterDownError ReadOnlyError TryAgainError WatchError"),
            (REJECTED, "ExecAbortError NoScriptError"),
            (AUTH, "AuthenticationError AuthorizationError NoPermissionError"),
        ],
        why="commands after a lost connection",
        switch="`Redis(retry=Retry(NoBackoff(), 0))`; a cluster has none",
        evidence=[Frame("redis.retry redis.asyncio.retry", "call_with_retry", "failures", is_certain=False)],
        before="MaxConnectionsError",
        many=[
            Frame("redis.client redis.asyncio.client", "_execute_pipeline raise_first_error"),
            Frame("redis.client redis.asyncio.client", "execute_command", commands=_SCRIPTS),
            Frame("redis.cluster redis.asyncio.cluster redis.multidb.client redis.asyncio.multidb.client", "*"),
        ],
    ),
    # redis-py's fork, with the same classes.
    Library(
        "valkey",
        Repeats.OPT_IN,
        [
            (AMBIGUOUS, "ConnectionError TimeoutError"),
            (NOT_SENT, "MaxConnectionsError"),
            (THROTTLED, "OutOfMemoryError"),
            (CONFLICT, "AskError ClusterDownError ReadOnlyError TryAgainError WatchError"),
            (REJECTED, "ExecAbortError NoScriptError"),
            (AUTH, "AuthenticationError AuthorizationError NoPermissionError"),
        ],
        why="commands, with `retry=` or `retry_on_timeout=True`",
        switch="the default, but for a cluster",
        evidence=[Frame("valkey.retry valkey.asyncio.retry", "call_with_retry", "failures", is_certain=False)],
        before="MaxConnectionsError",
        many=[
            Frame("valkey.client valkey.asyncio.client", "_execute_pipeline raise_first_error"),
            Frame("valkey.client valkey.asyncio.client", "execute_command", commands=_SCRIPTS),
            Frame("valkey.cluster valkey.asyncio.cluster", "*"),
        ],
    ),
    Library(
        "elasticsearch elastic_transport",
        Repeats.YES,
        [(AMBIGUOUS, "SerializationError TransportError"), (Reader.STATUS, "ApiError")],
        why="calls",
        switch="`max_retries=0`",
        many=[
            Frame("elasticsearch._sync.client elasticsearch._async.client", "bulk delete_by_query reindex"),
            Frame("elasticsearch._sync.client elasticsearch._async.client", "update_by_query"),
            Frame("elasticsearch.helpers.actions elasticsearch._async.helpers", "*"),
        ],
        status="status_code",
    ),
    Library(
        "opensearchpy",
        Repeats.YES,
        [(AMBIGUOUS, "ConnectionError SerializationError"), (Reader.STATUS, "TransportError")],
        why="calls",
        switch="`max_retries=0`",
        evidence=[Frame("opensearchpy.transport opensearchpy._async.transport", "perform_request", "attempt")],
        many=[
            Frame("opensearchpy.client opensearchpy._async.client", "bulk delete_by_query reindex update_by_query"),
            Frame("opensearchpy.helpers.actions opensearchpy._async.helpers.actions", "*"),
        ],
        status="status_code",
    ),
    # The providers' own libraries. Over requests they follow redirects, and their own errors do not show it.
    Library(
        "stripe",
        Repeats.YES,
        [
            (AMBIGUOUS, "APIConnectionError"),
            (DECLINED, "CardError"),
            (KEY_MISUSE, "IdempotencyError"),
            (THROTTLED, "RateLimitError"),
            (AUTH, "AuthenticationError PermissionError"),
            (Reader.STATUS, "StripeError"),
        ],
        why="calls",
        switch="`max_network_retries=0`",
        provider="stripe",
    ),
    Library(
        "Adyen",
        Repeats.YES,
        [(Reader.STATUS, "AdyenAPIResponseError"), (BUG, "AdyenEndpointInvalidFormat AdyenInvalidRequestError")],
        why=_FOLLOWS,
        switch="an `http_client` of your own",
        evidence=[_REQUESTS_SENDS],
        status="status_code",
        provider="adyen",
    ),
    Library(
        "square",
        Repeats.YES,
        [(Reader.STATUS, "ApiError")],
        why="calls, redirects",
        switch='`request_options={"max_retries": 0}`, `follow_redirects=False`',
        status="status_code",
        provider="square",
    ),
    Library(
        "braintree",
        Repeats.YES,
        [
            (AMBIGUOUS, "BraintreeError"),
            (NOT_SENT, "ConnectTimeoutError"),
            (Reader.ARGUMENT, "ConnectionError"),
            (AUTH, "AuthenticationError AuthorizationError"),
            (REJECTED, "NotFoundError UpgradeRequiredError"),
            (THROTTLED, "TooManyRequestsError"),
        ],
        why=_FOLLOWS,
        switch="an `http_strategy` of your own",
        evidence=[_REQUESTS_SENDS],
    ),
    Library(
        "twilio",
        Repeats.YES,
        [(Reader.STATUS, "TwilioRestException")],
        why="DELETE and PUT, with `TwilioHttpClient(max_retries=...)`",
        switch="the default: no `max_retries`",
        evidence=[Evidence.METHOD, _REQUESTS_SENDS, _URLLIB3_SENDS],
        status="status",
    ),
    Library(
        "openai",
        Repeats.YES,
        _STAINLESS_CLASSES,
        why="calls, redirects",
        switch="`max_retries=0`",
        evidence=[Evidence.STAINLESS],
        # Each creates, and then asks, or creates more.
        many=[
            Frame("openai.resources.beta.threads.threads", "create_and_run_poll"),
            Frame("openai.resources.beta.threads.runs.runs", "create_and_poll submit_tool_outputs_and_poll"),
            Frame("openai.resources.uploads.uploads", "upload_file_chunked"),
            Frame("openai.resources.vector_stores.file_batches", "create_and_poll upload_and_poll"),
            Frame("openai.resources.vector_stores.files", "create_and_poll upload_and_poll"),
            Frame("openai.resources.videos", "create_and_poll"),
        ],
        provider="openai",
    ),
    Library(
        "anthropic",
        Repeats.YES,
        _STAINLESS_CLASSES,
        why="calls, redirects",
        switch="`max_retries=0`",
        evidence=[Evidence.STAINLESS],
        many=[Frame("anthropic.lib.tools._beta_runner anthropic.lib.tools._beta_session_runner", "*")],
        provider="anthropic",
    ),
    Library(
        "hvac",
        Repeats.YES,
        [
            (AMBIGUOUS, "VaultError"),
            (AUTH, "Forbidden Unauthorized"),
            (REJECTED, "InvalidPath InvalidRequest PreconditionFailed UnsupportedOperation"),
            (THROTTLED, "RateLimitExceeded"),
        ],
        why=_FOLLOWS,
        switch="`allow_redirects=False`",
        evidence=[_REQUESTS_SENDS],
    ),
    Library(
        "kubernetes",
        Repeats.YES,
        [(Reader.STATUS, "ApiException")],
        why="PUT and DELETE after a lost connection, redirects",
        switch="`Configuration.retries = False`",
        status="status",
    ),
    # The service decides what a SOAP fault says about the effect.
    Library(
        "zeep",
        Repeats.YES,
        [(AMBIGUOUS, "Fault"), (Reader.STATUS, "TransportError")],
        why=_FOLLOWS,
        switch="a `Transport` whose session follows no redirects",
        evidence=[_REQUESTS_SENDS],
        status="status_code",
    ),
    # SSH and brokers
    Library(
        "paramiko",
        Repeats.NO,
        [
            (NOT_SENT, "NoValidConnectionsError"),
            (AMBIGUOUS, "SSHException"),
            (AUTH, "AuthenticationException BadHostKeyException"),
        ],
    ),
    Library(
        "pika",
        Repeats.NO,
        [
            (AMBIGUOUS, "AMQPError"),
            # From connecting. The classes for a lost connection are derived from the second one.
            (NOT_SENT, "AMQPConnectorStackTimeout"),
            (Reader.EXACT_CLASS, "AMQPConnectionError"),
            (AUTH, "AuthenticationError ProbableAccessDeniedError ProbableAuthenticationError"),
            (AMBIGUOUS, "NackError"),
            (REJECTED, "UnroutableError"),
        ],
    ),
    Library(
        "nats",
        Repeats.NO,
        [
            (AMBIGUOUS, "Error"),
            (NOT_SENT, "NoRespondersError NoServersError NoStreamResponseError"),
            (AUTH, "AuthorizationError"),
            (REJECTED, "BadSubjectError MaxPayloadError"),
            (REJECTED, "BadRequestError NotFoundError"),
        ],
        many=[Frame("nats.js.kv", "purge_deletes"), Frame("nats.js.object_store", "*")],
    ),
    Library(
        "kafka",
        Repeats.YES,
        [
            (AMBIGUOUS, "KafkaError"),
            (AUTH, "ClusterAuthorizationFailedError TopicAuthorizationFailedError"),
            (REJECTED, "MessageSizeTooLargeError"),
        ],
        why="batches",
        switch="`retries=0`",
    ),
    Library(
        "aiokafka",
        Repeats.YES,
        [(AMBIGUOUS, "KafkaError")],
        why="batches, and it cannot be turned off",
        switch="none: its errors prove nothing",
    ),
    # Its exceptions name the module in C that they come from.
    Library(
        "confluent_kafka cimpl", Repeats.YES, [(AMBIGUOUS, "KafkaException")], why="batches", switch='`{"retries": 0}`'
    ),
    Library(
        "tenacity",
        Repeats.YES,
        [(AMBIGUOUS, "RetryError")],
        why="what it is told to",
        switch="none: leave it out",
        evidence=_TENACITY,
    ),
)
