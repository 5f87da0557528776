"""botocore: errors that it parses from answers of the services' own models, and failed connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import botocore.exceptions  # type: ignore[import-untyped, unused-ignore]
import botocore.session  # type: ignore[import-untyped, unused-ignore]
import pytest
from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped, unused-ignore]
from botocore.config import Config  # type: ignore[import-untyped, unused-ignore]

from temporal_saga.classification._read import code_of, headers_of, kind_of, retry_hint, status_of
from temporal_saga.errors import FailureKind
from tests.libraries.servers import Servers, serve

K = FailureKind
PUT = {"TableName": "t", "Item": {"id": {"S": "1"}}}
TRANSACTION = {"TransactItems": [{"Put": PUT}], "ClientRequestToken": "k"}


class _Body:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._body


def dynamodb(url: str = "http://127.0.0.1:1", *, attempts: int = 1, credentials: bool = True, **options: Any) -> Any:
    session = botocore.session.Session(session_vars={"config_file": (None, None, "", None)})
    if credentials:
        session.set_credentials("key", "secret")
    defaults = {"read_timeout": 0.3, "connect_timeout": 20, "proxies": {}}
    config = Config(retries={"total_max_attempts": attempts, "mode": "standard"}, **{**defaults, **options})
    return session.create_client("dynamodb", "eu-west-1", endpoint_url=url, config=config)


def answering(*answers: tuple[int, dict[str, Any], dict[str, str]], attempts: int = 1) -> Any:
    """A client whose requests get these answers, in the service's own protocol, without a network."""
    client, rest = dynamodb(attempts=attempts), iter(answers)

    def answer(request: Any, **_: Any) -> AWSResponse:
        status, body, headers = next(rest)
        return AWSResponse(request.url, status, headers, _Body(json.dumps(body).encode()))

    client.meta.events.register("before-send.dynamodb", answer)
    return client


def error_of(client: Any, operation: str = "put_item", **arguments: Any) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is what the tables know
        getattr(client, operation)(**(arguments or (TRANSACTION if operation == "transact_write_items" else PUT)))
    return raised.value


def of_type(name: str, **more: Any) -> dict[str, Any]:
    return {"__type": f"com.amazonaws.dynamodb.v20120810#{name}", "message": "no", **more}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ConditionalCheckFailedException", K.REJECTED),
        (400, "ValidationException", K.REJECTED),
        (400, "ResourceNotFoundException", K.REJECTED),
        (400, "ProvisionedThroughputExceededException", K.THROTTLED),
        (400, "ThrottlingException", K.THROTTLED),
        (400, "RequestLimitExceeded", K.THROTTLED),
        (400, "LimitExceededException", K.THROTTLED),
        (429, "SomethingNew", K.THROTTLED),
        (400, "TransactionConflictException", K.CONFLICT),
        (400, "TransactionInProgressException", K.IN_PROGRESS),
        (400, "IdempotentParameterMismatchException", K.KEY_MISUSE),
        (400, "AccessDeniedException", K.AUTH),
        (400, "ExpiredTokenException", K.AUTH),
        (400, "UnrecognizedClientException", K.AUTH),
        (400, "RequestTimeout", K.AMBIGUOUS),
        (500, "InternalServerError", K.AMBIGUOUS),
        (503, "ServiceUnavailable", K.AMBIGUOUS),
    ],
)
def test_codes(status: int, code: str, expected: FailureKind) -> None:
    error = error_of(answering((status, of_type(code), {})))
    assert isinstance(error, botocore.exceptions.ClientError)
    assert (status_of(error), code_of(error)) == (status, code)
    assert kind_of(error, (), {}) is expected


CODES = {
    K.THROTTLED: "BandwidthLimitExceeded EC2ThrottledException PriorRequestNotComplete RequestThrottled SlowDown "
    "RequestThrottledException ThrottledException Throttling TooManyRequestsException",
    K.AMBIGUOUS: "RequestTimeoutException",
    K.KEY_MISUSE: "IdempotentParameterMismatch",
    K.AUTH: "AccessDenied AuthFailure ExpiredToken IncompleteSignature InvalidAccessKeyId InvalidClientTokenId "
    "InvalidSignatureException MissingAuthenticationToken MissingAuthenticationTokenException RequestTimeTooSkewed "
    "SignatureDoesNotMatch UnauthorizedOperation",
}


def test_codes_of_other_services() -> None:
    expected = {code: kind for kind, codes in CODES.items() for code in codes.split()}
    client = answering(*((400, of_type(code), {}) for code in expected))
    assert {code: kind_of(error_of(client), (), {}) for code in expected} == expected


def test_throttled_as_botocore_has_it() -> None:
    from botocore.retries.standard import ThrottledRetryableChecker  # type: ignore[import-untyped, unused-ignore]

    codes = set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES) - {"TransactionInProgressException"}
    client = answering(*((400, of_type(code), {}) for code in codes))
    assert {kind_of(error_of(client), (), {}) for _ in codes} == {K.THROTTLED}


def test_a_class_that_the_client_makes() -> None:
    client = answering((400, of_type("ConditionalCheckFailedException"), {}))
    error = error_of(client)
    assert type(error) is client.exceptions.ConditionalCheckFailedException


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (["None", "TransactionConflict"], K.CONFLICT),
        (["TransactionConflict", "ThrottlingError"], K.THROTTLED),
        (["ProvisionedThroughputExceeded", "None"], K.THROTTLED),
        (["TransactionConflict", "ConditionalCheckFailed"], K.REJECTED),
        (["ValidationError"], K.REJECTED),
    ],
    ids="-".join,
)
def test_a_cancelled_transaction(codes: list[str], expected: FailureKind) -> None:
    body = of_type("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])
    assert kind_of(error_of(answering((400, body, {})), "transact_write_items"), (), {}) is expected


def test_a_definite_answer_to_a_second_try_of_botocores_own_is_not_definite() -> None:
    first, second = of_type("InternalServerError"), of_type("ConditionalCheckFailedException")
    error = error_of(answering((500, first, {}), (400, second, {}), attempts=2))
    assert code_of(error) == "ConditionalCheckFailedException"
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_the_wait_that_a_service_asks_for() -> None:
    error = error_of(answering((400, of_type("ThrottlingException"), {"X-Amz-Retry-After": "1500"})))
    assert headers_of(error)["x-amz-retry-after"] == "1500"
    assert retry_hint(error) == timedelta(milliseconds=1500)


# --- no answer ---

# Each of these is that of the last try, as is the code of an answer, and none says how many there were before it.


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


def test_a_refused_connection(servers: Servers) -> None:
    error = error_of(dynamodb(f"http://127.0.0.1:{servers.refusing}"))
    assert isinstance(error, botocore.exceptions.EndpointConnectionError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_a_refused_connection_after_a_try_that_was_sent(servers: Servers) -> None:
    client = dynamodb(f"{servers.url}/stall", attempts=2)
    sent: list[str] = []

    def go_elsewhere(request: Any, **_: Any) -> None:
        if sent:
            request.url = f"http://127.0.0.1:{servers.refusing}/"
        sent.append(request.url)

    client.meta.events.register("before-send.dynamodb", go_elsewhere)
    error = error_of(client)
    assert len(sent) == 2
    assert isinstance(error, botocore.exceptions.EndpointConnectionError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_a_refusing_proxy(servers: Servers) -> None:
    proxies = {"http": f"http://127.0.0.1:{servers.refusing}"}
    error = error_of(dynamodb(servers.url, proxies=proxies))
    assert isinstance(error, botocore.exceptions.ProxyConnectionError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_a_connection_that_takes_too_long(servers: Servers) -> None:
    error = error_of(dynamodb(f"http://127.0.0.1:{servers.full}", connect_timeout=0.3))
    assert isinstance(error, botocore.exceptions.ConnectTimeoutError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_a_certificate_that_is_not_trusted(servers: Servers) -> None:
    error = error_of(dynamodb(servers.untrusted))
    assert isinstance(error, botocore.exceptions.SSLError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_a_handshake_that_fails_otherwise(servers: Servers) -> None:
    error = error_of(dynamodb(servers.url.replace("http:", "https:")))
    assert isinstance(error, botocore.exceptions.SSLError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


@pytest.mark.parametrize("what", ["stall", "reset", "close"])
def test_what_was_sent_and_not_answered(what: str, servers: Servers) -> None:
    error = error_of(dynamodb(f"{servers.url}/{what}"))
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert kind_of(error_of(dynamodb(credentials=False)), (), {}) is K.AUTH


def test_no_such_profile() -> None:
    session = botocore.session.Session(profile="nowhere", session_vars={"config_file": (None, None, "", None)})
    with pytest.raises(botocore.exceptions.ProfileNotFound) as raised:
        session.get_scoped_config()
    assert kind_of(raised.value, (), {}) is K.AUTH


def test_parameters_that_botocore_refuses() -> None:
    error = error_of(dynamodb(), TableName="t", Item="1")
    assert isinstance(error, botocore.exceptions.ParamValidationError)
    assert kind_of(error, (), {}) is K.REJECTED
