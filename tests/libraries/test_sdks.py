"""The libraries of providers and stores over HTTP, against a server that fails as its test says.

Each one is refused, waits too long, is reset, gets the statuses that it maps, and tries a request again by itself whose
first try had its effect. None of them may say "no effect" then.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
import requests

from temporal_saga.classification import Profile, classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure
from tests.libraries.servers import refusing_port

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

WAIT = 20.0  # seconds: how long a client waits for an answer; the machine may be busy
Outcome = int | str
"""A status, or `reset`, `stall`, `redirect`."""


class Server(ThreadingHTTPServer):
    """Does what is told of a path, one outcome for each request; the last one holds for all that follow.

    Attributes:
        told: The outcomes that are left, by the first part of the path.
        effects: How often a request had its effect: all but those that are answered with 4xx.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.told: dict[str, list[Outcome]] = {}
        self.effects: dict[str, int] = {}
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that turned away, as it is meant to

    def tell(self, *outcomes: Outcome) -> str:
        key = uuid4().hex
        self.told[key], self.effects[key] = list(outcomes), 0
        return f"http://127.0.0.1:{self.server_address[1]}/{key}"

    def effects_of(self, url: str) -> int:
        return self.effects[url.rpartition("/")[2]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _do(self) -> None:
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.path.split("/")[1]
        told = self.server.told[key]
        outcome = told.pop(0) if len(told) > 1 else told[0]
        if not isinstance(outcome, int) or outcome >= 500:
            self.server.effects[key] += 1
        self.close_connection = True
        if outcome == "stall":
            self.server.over.wait(20)
        elif outcome == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            body = b'{"error": {"message": "no"}, "errors": []}'
            self.send_response(303 if outcome == "redirect" else int(str(outcome)[:3]))
            if outcome == "redirect":
                self.send_header("Location", self.path)
            if outcome != 403:  # with a wait, it is throttling
                self.send_header("retry-after-ms", "1")
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_DELETE = do_GET = do_PATCH = do_POST = do_PUT = _do  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@contextmanager
def answering_once() -> Iterator[str]:
    """A server that answers one request with 500, and is gone: the next connection is refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as connection:
                listener.close()
                connection.recv(100_000)
                connection.sendall(
                    b"HTTP/1.1 500 No\r\nretry-after-ms: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

        thread = threading.Thread(target=serve)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.start()
        yield url
        thread.join(10)


# --- the clients: each makes one call that writes; `again` says whether the library may try it again ---

Call = Callable[[str, bool], object]
CLIENTS: dict[str, Call] = {}


def client(package: str) -> Callable[[Call], Call]:
    """Register a client if its package is installed."""

    def register(call: Call) -> Call:
        parent = package.partition(".")[0]
        if importlib.util.find_spec(parent) and importlib.util.find_spec(package):
            CLIENTS[call.__name__] = call
        return call

    return register


@client("openai")
def openai(url: str, again: bool) -> object:
    import openai

    with openai.OpenAI(api_key="k", base_url=url, timeout=WAIT, max_retries=2 if again else 0) as api:
        return api.responses.create(model="m", input="x")


@client("anthropic")
def anthropic(url: str, again: bool) -> object:
    import anthropic

    with anthropic.Anthropic(api_key="k", base_url=url, timeout=WAIT, max_retries=2 if again else 0) as api:
        return api.messages.create(model="m", max_tokens=1, messages=[])


@client("stripe")
def stripe(url: str, again: bool) -> object:
    import stripe

    http: Any = stripe.RequestsClient(timeout=WAIT)
    http.MAX_DELAY = http.INITIAL_DELAY = 0
    api = stripe.StripeClient(
        "sk_test", base_addresses={"api": url}, http_client=http, max_network_retries=2 if again else 0
    )
    try:
        return api.v1.payment_intents.create({"amount": 1, "currency": "eur"})
    finally:
        http.close()


@client("square")
def square(url: str, again: bool) -> object:
    import square

    api = square.Square(token="k", base_url=url, timeout=WAIT)
    more: Any = {} if again else {"max_retries": 0}
    return api.payments.cancel_by_idempotency_key(idempotency_key="k", request_options=more)


@client("elasticsearch")
def elasticsearch(url: str, again: bool) -> object:
    import elasticsearch

    options: Any = {"retry_on_status": [500, 503]} if again else {"max_retries": 0}
    with elasticsearch.Elasticsearch(url, request_timeout=WAIT, **options) as api:
        return api.index(index="i", document={})


@client("opensearchpy")
def opensearch(url: str, again: bool) -> object:
    import opensearchpy

    options: Any = {"retry_on_status": [500, 503]} if again else {"max_retries": 0}
    api = opensearchpy.OpenSearch(url, timeout=WAIT, **options)
    try:
        return api.index(index="i", body={})
    finally:
        api.close()


@client("hvac")
def hvac(url: str, again: bool) -> object:
    import hvac

    api = hvac.Client(url, token="k", timeout=WAIT, allow_redirects=again)
    return api.write_data("secret/x", data={})


@client("kubernetes")
def kubernetes(url: str, again: bool) -> object:
    from kubernetes import client as k8s

    config = k8s.Configuration(host=url)
    config.retries = None if again else False
    with k8s.ApiClient(config) as api:
        return k8s.CoreV1Api(api).replace_namespaced_config_map("x", "x", k8s.V1ConfigMap(), _request_timeout=WAIT)


@client("azure.storage.blob")
def azure(url: str, again: bool) -> object:
    from azure.storage.blob import BlobClient, LinearRetry

    retry = LinearRetry(backoff=0, retry_total=2, random_jitter_range=0)
    options: Any = {"retry_policy": retry} if again else {"retry_total": 0}
    with BlobClient(url, "c", "b", read_timeout=WAIT, connection_timeout=2, **options) as blob:
        return blob.upload_blob(b"x")


@client("azure.core")
def azure_core(url: str, again: bool) -> object:
    from azure.core import PipelineClient
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.rest import HttpRequest

    retry = RetryPolicy(retry_total=2 if again else 0, retry_backoff_factor=0, method_whitelist={"PUT"})
    pipeline: Any = PipelineClient(url, policies=[retry])
    with pipeline:
        response = pipeline.send_request(HttpRequest("PUT", url), read_timeout=WAIT)
        if response.status_code >= 300:
            raise HttpResponseError(response=response)
        return response


@client("google.cloud.storage")
def google(url: str, again: bool) -> object:
    from google.api_core.client_options import ClientOptions
    from google.api_core.retry import Retry
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    options: Any = ClientOptions(api_endpoint=url)
    api = storage.Client("p", AnonymousCredentials(), client_options=options)  # type: ignore[no-untyped-call]
    retry = Retry(initial=0.001, maximum=0.01, timeout=2, predicate=_is_500) if again else None
    try:
        return api.bucket("b").blob("x").patch(timeout=WAIT, retry=retry)
    finally:
        api.close()


def _is_500(error: BaseException) -> bool:
    return getattr(error, "code", 0) >= 500 or isinstance(error, requests.ConnectionError)


@client("google.genai")
def genai(url: str, again: bool) -> object:
    from google import genai
    from google.genai import types

    retry = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.001) if again else None
    options = types.HttpOptions(base_url=url, timeout=int(WAIT * 1000), retry_options=retry)
    with genai.Client(api_key="k", http_options=options) as api:
        return api.models.generate_content(model="m", contents="x")


# Neither tries again; both follow redirects, and this is what may be sent twice.
@client("braintree")
def braintree(url: str, again: bool) -> object:
    import braintree

    environment = braintree.Environment("x", "127.0.0.1", url.split(":")[2].split("/")[0], "", False, None)
    config = braintree.Configuration(environment, "m", "k", "s", timeout=WAIT)
    config.base_merchant_path = lambda: ""
    http = config.http()
    return http.post("/" + url.rpartition("/")[2])


@client("Adyen")
def adyen(url: str, again: bool) -> object:
    from Adyen.client import AdyenClient
    from Adyen.httpclient import HTTPClient

    api: Any = AdyenClient(xapikey="k", platform="test")
    api.http_init, api.http_client = True, HTTPClient("x", "0", timeout=WAIT)
    api._determine_api_url = lambda *_: url
    return api.call_adyen_api({}, "checkout", "POST", "/payments")


@client("twilio")
def twilio(url: str, again: bool) -> object:
    from twilio.rest import Client

    api = Client("AC", "token")
    api.http_client.timeout = WAIT
    api.request = _twilio_at(url, api.request)
    return api.messages.create(to="1", from_="2", body="x")


def _twilio_at(url: str, request: Any) -> Any:
    return lambda method, uri, *args, **kwargs: request(method, url, *args, **kwargs)


@client("twilio")
def twilio_delete(url: str, again: bool) -> object:
    from twilio.http.http_client import TwilioHttpClient
    from twilio.rest import Client

    http: Any = TwilioHttpClient(timeout=WAIT, max_retries=2 if again else None)
    http.session.mount("http://", http.session.get_adapter("https://x"))  # what it does with https only
    api = Client("AC", "token", http_client=http)
    api.request = _twilio_at(url, api.request)
    return api.messages("SM").delete()


_WSDL = b"""<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
    xmlns:x="urn:x" targetNamespace="urn:x"><message name="m"/><portType name="p"><operation name="pay">
    <input message="x:m"/><output message="x:m"/></operation></portType><binding name="b" type="x:p">
    <soap:binding transport="http://schemas.xmlsoap.org/soap/http"/><operation name="pay"><soap:operation
    soapAction="pay"/><input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation>
    </binding><service name="s"><port name="q" binding="x:b"><soap:address location="URL"/></port></service>
    </definitions>"""


@client("zeep")
def zeep(url: str, again: bool) -> object:
    zeep: Any = importlib.import_module("zeep")
    transport = zeep.Transport(operation_timeout=WAIT)
    try:
        return zeep.Client(io.BytesIO(_WSDL.replace(b"URL", url.encode())), transport=transport).service.pay()
    finally:
        transport.session.close()


REPEATS: dict[str, list[tuple[Outcome, int]]] = {
    # What the library is told to send again, and the answer to that: each with a first request that had its effect.
    **{name: [("reset", 404), (500, 404), (503, 409)] for name in ("openai", "anthropic", "stripe")},
    "azure": [(500, 409), (503, 412)],
    "azure_core": [(500, 409), (503, 412)],
    "elasticsearch": [("reset", 404), (500, 409)],
    "genai": [(500, 404), (503, 400)],
    "google": [(503, 412), (500, 404)],
    "kubernetes": [("reset", 409), ("redirect", 404)],
    "opensearch": [("reset", 404), (500, 409)],
    "square": [(500, 404), ("redirect", 402)],
    "hvac": [("redirect", 403), ("redirect", 400)],
    "adyen": [("redirect", 404), ("redirect", 401)],
    "braintree": [("redirect", 404), ("redirect", 401)],
    "twilio_delete": [("reset", 404), ("reset", 401)],
    "zeep": [("redirect", 404), ("redirect", 401)],
}
SHOWS = ("openai", "anthropic", "opensearch")
"""What shows that there was one request."""

both = pytest.mark.parametrize("name", CLIENTS)


ONE = Profile(client_retries=False)


@both
def test_a_refused_connection(name: str) -> None:
    with refusing_port() as port:
        error = failure(CLIENTS[name], f"http://127.0.0.1:{port}/{uuid4().hex}", False)
    assert classify(error, profile=ONE) in (K.NOT_SENT, K.AMBIGUOUS)
    if name in ("openai", "anthropic", "azure", "azure_core", "braintree", "google", "twilio"):
        assert classify(error, profile=ONE) is K.NOT_SENT


@both
@pytest.mark.parametrize("outcome", ["stall", "reset"])
def test_a_request_that_gets_no_answer(
    name: str, outcome: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outcome == "stall":
        monkeypatch.setattr(sys.modules[__name__], "WAIT", 0.5)
    url = server.tell(outcome)
    error = failure(CLIENTS[name], url, False)
    assert server.effects_of(url) == 1  # the switch works
    assert classify(error, profile=ONE) is K.AMBIGUOUS


STATUSES = {400: K.REJECTED, 401: K.AUTH, 403: K.AUTH, 404: K.REJECTED, 429: K.THROTTLED, 500: K.AMBIGUOUS}
NONE_OF_THEIRS = {"braintree": {400}, "google": {401}}
"""What a library has no error for."""


@both
def test_statuses(name: str, server: Server) -> None:
    """Of the one request that a call makes, as the user says or as the error shows."""
    expected = {status: kind for status, kind in STATUSES.items() if status not in NONE_OF_THEIRS.get(name, ())}
    errors = {status: failure(CLIENTS[name], server.tell(status), False) for status in expected}
    assert {status: classify(error, profile=ONE) for status, error in errors.items()} == expected
    told_nothing = {status: classify(error) for status, error in errors.items()}
    if name in SHOWS or name == "twilio":
        assert told_nothing == expected
    else:
        assert {kind.effect for kind in told_nothing.values()} == {"unknown"}


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [(name, *each) for name, repeats in REPEATS.items() for each in repeats if name in CLIENTS],
)
def test_the_answer_to_a_second_request_proves_nothing_of_the_first(
    name: str, first: Outcome, then: int, server: Server
) -> None:
    """The first had its effect."""
    url = server.tell(first, then)
    error = failure(CLIENTS[name], url, True)
    assert server.effects_of(url) == 1
    assert not isinstance(error, ConnectionError), error
    assert classify(error).effect == "unknown"


@pytest.mark.parametrize("name", [name for name in ("square", "stripe", "openai") if name in CLIENTS])
def test_a_second_request_that_is_refused_proves_nothing_of_the_first(name: str) -> None:
    """Square's library hands on httpx's error of the second, which says nothing of the first."""
    with answering_once() as url:
        error = failure(CLIENTS[name], url, True)
    assert classify(error).effect == "unknown"


def test_every_client_here_is_made_to_send_a_second_request() -> None:
    assert {*REPEATS, "twilio"} >= {*CLIENTS}


def test_a_conflict_by_the_class_that_names_the_provider(server: Server) -> None:
    """Without a profile: the same request is under way, and a retry finds what became of it."""
    seen = {name: classify(failure(CLIENTS[name], server.tell(409), False)) for name in CLIENTS}
    providers = ("openai", "anthropic", "stripe", "square")
    assert {name: seen[name] for name in providers} == dict.fromkeys(providers, K.IN_PROGRESS)


# --- google.auth, which asks for a token before the request, or after an answer of 401 ---


def _credentials(url: str) -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials("old", refresh_token="r", token_uri=url, client_id="c", client_secret="s")  # type: ignore[no-untyped-call]


def _refresh(url: str) -> None:
    from google.auth.transport.requests import Request

    _credentials(url).refresh(functools.partial(Request(), timeout=WAIT))


def test_google_auth(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.oauth2")
    with refusing_port() as port:
        refused = failure(_refresh, f"http://127.0.0.1:{port}")
    refusals = [failure(_refresh, server.tell(status)) for status in (400, 401)]
    reset = failure(_refresh, server.tell("reset"))
    monkeypatch.setattr(sys.modules[__name__], "WAIT", 0.5)
    late = failure(_refresh, server.tell("stall"))
    for error in (refused, reset, late):
        assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS
    for error in refusals:
        assert classify(error, profile=ONE) is K.AUTH
        assert classify(error).effect == "unknown"


def test_google_auth_that_fails_after_a_request_that_had_its_effect(server: Server) -> None:
    pytest.importorskip("google.oauth2")
    transport: Any = importlib.import_module("google.auth.transport.requests")

    def pay(url: str) -> None:
        with transport.AuthorizedSession(_credentials(server.tell(400))) as session:
            session.post(url, timeout=WAIT)

    error = failure(pay, server.tell("401 after its effect"))
    assert type(error).__name__ == "RefreshError"
    assert classify(error).effect == "unknown"
