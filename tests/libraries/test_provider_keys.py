"""The page on providers' keys: its activities, against providers that remember keys as theirs do."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID, uuid4, uuid5

import botocore.session  # type: ignore[import-untyped, unused-ignore]
import httpx
import pytest
import stripe
from botocore.stub import ANY, Stubber  # type: ignore[import-untyped, unused-ignore]
from temporalio.testing import ActivityEnvironment

from temporal_saga.errors import Declined, InProgress, KeyMisuse, Rejected
from tests.test_docs import ROOT, load


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "*")
    return load("provider-keys")


@pytest.fixture
def key() -> str:
    return str(uuid4())


def run(function: Callable[..., Any], key: str, phase: str, *arguments: object, attempt: int = 1) -> Any:
    environment = ActivityEnvironment()
    info = ActivityEnvironment.default_info()
    environment.info = replace(info, activity_id=f"step:{phase}:{key}", attempt=attempt)
    return environment.run(function, *arguments)


def test_a_key_fits_every_provider(key: str) -> None:
    (row,) = re.findall(r"^\| longest \|(.*)\|$", (ROOT / "docs" / "provider-keys.md").read_text(), re.MULTILINE)
    lengths = [int(each) for each in row.split("|")]
    assert len(lengths) == 5
    assert len(key) <= min(lengths)
    assert key.isascii()


def test_what_the_table_says_of_dynamodb() -> None:
    model = botocore.session.get_session().get_service_model("dynamodb")
    token = model.operation_model("TransactWriteItems").input_shape.members["ClientRequestToken"]
    assert token.metadata["max"] == 36
    assert "valid for 10 minutes" in token.documentation
    assert "ClientRequestToken" not in model.operation_model("PutItem").input_shape.members
    for name in ("IdempotentParameterMismatchException", "TransactionInProgressException"):
        assert name in model.shape_names


# --- Stripe ---


class Stripe(ThreadingHTTPServer):
    """Remembers the first answer of each key, and the payments by their ids."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[str, int, dict[str, Any]]] = {}
        self.payments: dict[str, str] = {}
        self.running: set[str] = set()
        super().__init__(("127.0.0.1", 0), _StripeHandler)

    def answer(self, path: str, body: str, key: str) -> tuple[int, dict[str, Any]]:
        if key in self.running:
            return 409, {"error": {"type": "invalid_request_error", "code": "idempotency_key_in_use", "message": "x"}}
        if key in self.first:
            request, status, answer = self.first[key]
            if request != path + body:
                return 400, {"error": {"type": "idempotency_error", "message": "x"}}
            return status, answer
        status, answer = self._do(path, parse_qs(body))
        self.first[key] = path + body, status, answer
        return status, answer

    def _do(self, path: str, parameters: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        if path.endswith("/cancel"):
            id = path.split("/")[-2]
            self.payments[id] = "canceled"
            return 200, {"id": id, "object": "payment_intent"}
        if parameters["payment_method"] == ["empty"]:
            return 402, {"error": {"type": "card_error", "code": "card_declined", "message": "x"}}
        id = f"pi_{len(self.payments)}"
        self.payments[id] = "held"
        return 200, {"id": id, "object": "payment_intent"}


class _StripeHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert isinstance(self.server, Stripe)
        status, answer = self.server.answer(self.path, body, self.headers["Idempotency-Key"])
        self.send_response(status)
        self.send_header("Content-Length", str(len(json.dumps(answer))))
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def provider(page: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stripe]:
    with Stripe() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        http: Any = stripe.RequestsClient()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        client = stripe.StripeClient("sk_test", base_addresses={"api": url}, http_client=http, max_network_retries=0)
        monkeypatch.setattr(page, "payments", client)
        yield server
        http.close()
        server.shutdown()
        thread.join()


def test_stripe_a_repeat_holds_once(page: Any, provider: Stripe, key: str) -> None:
    first = run(page.hold, key, "do", "card", 500)
    assert run(page.hold, key, "do", "card", 500, attempt=2) == first
    assert provider.payments == {first: "held"}


def test_stripe_undo_of_what_is_held(page: Any, provider: Stripe, key: str) -> None:
    held = run(page.hold, key, "do", "card", 500)
    run(page.release, key, "undo", "card", 500)
    run(page.release, key, "undo", "card", 500, attempt=2)
    assert provider.payments == {held: "canceled"}


def test_stripe_a_step_that_comes_after_its_undo_holds_nothing(page: Any, provider: Stripe, key: str) -> None:
    run(page.release, key, "undo", "card", 500)
    late = run(page.hold, key, "do", "card", 500, attempt=2)
    assert provider.payments == {late: "canceled"}


def test_stripe_declined(page: Any, provider: Stripe, key: str) -> None:
    with pytest.raises(Declined):
        run(page.hold, key, "do", "empty", 500)
    run(page.release, key, "undo", "empty", 500)
    assert provider.payments == {}


def test_stripe_other_parameters(page: Any, provider: Stripe, key: str) -> None:
    run(page.hold, key, "do", "card", 500)
    with pytest.raises(KeyMisuse):
        run(page.hold, key, "do", "card", 501)


def test_stripe_still_running(page: Any, provider: Stripe, key: str) -> None:
    provider.running.add(key)
    with pytest.raises(InProgress):
        run(page.hold, key, "do", "card", 500)


# --- Adyen, PayPal, Square ---


@pytest.mark.parametrize(
    ("name", "phase", "arguments", "path", "where"),
    [
        ("pay_with_adyen", "do", [{"value": 500}], "/v71/payments", ("idempotency-key", "reference")),
        ("cancel_with_adyen", "undo", [{"value": 500}], "/v71/cancels", ("paymentReference",)),
        ("capture_with_paypal", "do", ["A1"], "/v2/payments/authorizations/A1/capture", ("paypal-request-id",)),
        ("pay_with_square", "do", ["card", 500], "/v2/payments", ("idempotency_key",)),
        ("cancel_with_square", "undo", ["card", 500], "/v2/payments/cancel", ("idempotency_key",)),
    ],
)
async def test_where_the_key_goes(
    page: Any,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    name: str,
    phase: str,
    arguments: list[object],
    path: str,
    where: tuple[str, ...],
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        monkeypatch.setattr(page, "http", http)
        await run(getattr(page, name), key, phase, *arguments)
    (request,) = seen
    assert request.url.path == path
    assert {dict(request.headers, **json.loads(request.content)).get(each) for each in where} == {key}
    if name == "cancel_with_adyen":
        assert request.headers["idempotency-key"] == str(uuid5(UUID(key), "undo"))


# --- DynamoDB ---


@pytest.fixture
def dynamodb(page: Any) -> Iterator[Stubber]:
    with Stubber(page.dynamodb) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def writes(stubber: Stubber, key: str, *, by: str, found: str | None = None, changes: int) -> None:
    """Expect a transaction with the row of that key; `found` is who had written it before."""
    row = {
        "TableName": "effects",
        "Item": {"key": {"S": key}, "by": {"S": by}},
        "ConditionExpression": "attribute_not_exists(#key)",
        "ExpressionAttributeNames": {"#key": "key"},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    parameters = {"TransactItems": [{"Put": row}, *[ANY] * changes]}
    if found is None:
        stubber.add_response("transact_write_items", {}, parameters)
    else:
        item = {"key": {"S": key}, "by": {"S": found}}
        stubber.add_client_error(
            "transact_write_items",
            "TransactionCanceledException",
            expected_params=parameters,
            modeled_fields={"CancellationReasons": [{"Code": "ConditionalCheckFailed", "Item": item}]},
        )


def test_dynamodb_a_repeat_finds_its_row(page: Any, dynamodb: Stubber, key: str) -> None:
    writes(dynamodb, key, by="step", changes=1)
    writes(dynamodb, key, by="step", found="step", changes=1)
    run(page.take, key, "do", "apple")
    run(page.take, key, "do", "apple", attempt=2)


def test_dynamodb_undo_of_what_applied(page: Any, dynamodb: Stubber, key: str) -> None:
    writes(dynamodb, key, by="undo", found="step", changes=0)
    writes(dynamodb, str(uuid5(UUID(key), "undo")), by="undo", changes=1)
    run(page.put_back, key, "undo", "apple")


def test_dynamodb_undo_of_nothing_and_the_step_that_comes_late(page: Any, dynamodb: Stubber, key: str) -> None:
    writes(dynamodb, key, by="undo", changes=0)
    writes(dynamodb, key, by="step", found="undo", changes=1)
    run(page.put_back, key, "undo", "apple")
    with pytest.raises(Rejected):
        run(page.take, key, "do", "apple")


# --- SQL ---


def test_a_unique_constraint_and_an_upsert(page: Any, key: str) -> None:
    for attempt in (1, 2):
        assert run(page.write_invoice, key, "do", 500, attempt=attempt) == key
        run(page.set_shipped, key, "do", "p-1", attempt=attempt)
    assert page.db.execute("SELECT * FROM invoices").fetchall() == [(key, 500)]
    assert page.db.execute("SELECT * FROM parcels").fetchall() == [("p-1", "shipped")]
