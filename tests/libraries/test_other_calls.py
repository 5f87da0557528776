"""Calls around a call, and within it: an error speaks for one of them, and another one may have had its effect.

Retries around a client, hooks that a client calls, helpers that send several requests, scripts and streams of several
effects. Each error comes from the real library, after an effect that stands. None of them may say "no effect".
"""

from __future__ import annotations

import importlib
import json
import pickle
import smtplib
import socket
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiohttp
import grpc  # type: ignore[import-untyped, unused-ignore]
import grpc.aio  # type: ignore[import-untyped, unused-ignore]
import httpx
import pytest
import redis
import requests
import tenacity
import urllib3
import valkey

from temporal_saga.classification import Profile, classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure, wait_for
from tests.libraries.servers import Servers, listening_once, reset, serve, speaking
from tests.libraries.test_mail_and_ssh import mail_server

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

ONE = Profile(client_retries=False)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


def proves(error: Exception) -> bool:
    """Tell whether an error says "no effect", to some user."""
    return "none" in (classify(error).effect, classify(error, profile=ONE).effect)


# --- what calls a client again ---


def by_tenacity(call: Callable[[int], Any]) -> None:
    async def run() -> None:
        number = 0
        async for attempt in tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), reraise=True):
            with attempt:
                number += 1
                call(number)

    wait_for(run)


def test_the_attempts_of_an_asynchronous_loop(servers: Servers) -> None:
    def post(status: int) -> None:
        httpx.post(f"{servers.url}/status/{status}", trust_env=False).raise_for_status()

    error = failure(by_tenacity, lambda number: post(500 if number == 1 else 402))
    assert classify(error) is K.AMBIGUOUS
    assert not proves(error)
    retrying = tenacity.AsyncRetrying(reraise=True, retry=tenacity.retry_if_exception_type(httpx.ReadError))

    async def one() -> None:
        async for attempt in retrying:
            with attempt:
                post(402)

    assert classify(failure(lambda: wait_for(one))) is K.DECLINED


def test_aiohttp_retry(servers: Servers) -> None:
    aiohttp_retry: Any = pytest.importorskip("aiohttp_retry")

    async def post(url: str, *, raises: bool) -> None:
        options = aiohttp_retry.ExponentialRetry(attempts=2, start_timeout=0.01)
        async with (
            aiohttp_retry.RetryClient(retry_options=options, raise_for_status=raises) as client,
            client.post(url, data=b"x") as response,
        ):
            response.raise_for_status()

    with listening_once() as url:
        assert not proves(failure(lambda: wait_for(lambda: post(url, raises=False))))
    assert not proves(failure(lambda: wait_for(lambda: post(f"{servers.url}/then/503/402?key=retry1", raises=True))))
    # Nothing in this one shows the loop. The user has to say it.
    error = failure(lambda: wait_for(lambda: post(f"{servers.url}/then/503/402?key=retry2", raises=False)))
    assert classify(error, profile=Profile(client_retries=True)) is K.AMBIGUOUS


def test_pythons_own_client_of_xml_rpc() -> None:
    """It calls again after a lost connection."""
    with listening_once_and_resetting() as url:
        assert not proves(failure(lambda: xmlrpc.client.ServerProxy(url).pay(1)))


@contextmanager
def listening_once_and_resetting() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def serve() -> None:
            connection = listener.accept()[0]
            listener.close()
            connection.recv(10_000)
            reset(_Handler(connection))

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


class _Handler:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection


# --- what a client calls ---


def hooked(what: str, hook: Callable[[Any], object], url: str) -> None:
    async def asynchronous_hook(response: Any) -> None:
        hook(response)

    async def asynchronous() -> None:
        async with httpx.AsyncClient(event_hooks={"response": [asynchronous_hook]}, trust_env=False) as client:
            (await client.post(url)).raise_for_status()

    if what == "requests":
        requests.post(url, hooks={"response": lambda response, **_: hook(response)}, timeout=20).raise_for_status()
    elif what == "httpx":
        with httpx.Client(event_hooks={"response": [hook]}, trust_env=False) as client:
            client.post(url).raise_for_status()
    else:
        wait_for(asynchronous)


@pytest.mark.parametrize("what", ["httpx", "httpx-async", "requests"])
def test_the_error_of_a_hook_speaks_for_the_hooks_own_call(what: str, servers: Servers) -> None:
    for other in (httpx, requests):

        def tell(_: Any, other: Any = other) -> None:
            other.post(f"http://127.0.0.1:{servers.refusing}/", timeout=20)

        def check_another(_: Any, other: Any = other) -> None:
            other.post(f"{servers.url}/status/402", timeout=20).raise_for_status()

        for hook in (tell, check_another):
            assert not proves(failure(hooked, what, hook, f"{servers.url}/status/200")), (other, hook)
    error = failure(hooked, what, lambda response: response.raise_for_status(), f"{servers.url}/status/402")
    assert classify(error) is K.DECLINED


def test_a_middleware_of_aiohttp(servers: Servers) -> None:
    async def again(request: Any, handler: Any) -> Any:
        try:
            response = await handler(request)
        except aiohttp.ServerDisconnectedError:
            response = await handler(request)
        return await handler(request) if response.status == 500 else response

    async def post(url: str) -> None:
        async with (
            aiohttp.ClientSession(middlewares=(again,), raise_for_status=True) as session,
            session.post(url, data=b"x"),
        ):
            pass

    with listening_once() as url:
        assert not proves(failure(lambda: wait_for(lambda: post(url))))
    error = failure(lambda: wait_for(lambda: post(f"{servers.url}/then/500/402?key=middleware")))
    assert classify(error) is K.AMBIGUOUS


# --- helpers that send several requests ---


@contextmanager
def saying(*answers: tuple[int, object]) -> Iterator[tuple[str, list[str]]]:
    """Run a server that gives these answers in turn. Gives its address, and the requests."""
    left, seen = list(answers), list[str]()

    def talk(handler: Any) -> None:
        line = handler.rfile.readline().decode().strip()
        length = 0
        while header := handler.rfile.readline().strip().lower():
            if header.startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        handler.rfile.read(length)
        seen.append(line)
        status, body = left.pop(0) if len(left) > 1 else left[0]
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        handler.wfile.write(f"{head}Connection: close\r\n\r\n".encode() + text)

    with speaking(talk) as port:
        yield f"http://127.0.0.1:{port}", seen


REFUSED = (403, {"error": {"code": 403, "message": "no"}})
RUN = {"id": "r", "object": "thread.run", "status": "queued", "thread_id": "t", "created_at": 1, "model": "m"}
TOOL_OF_OPENAI = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}],
            },
        }
    ],
}
TOOL_OF_ANTHROPIC = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
    "content": [{"type": "tool_use", "id": "1", "name": "pay", "input": {}}],
}


def _openai(url: str) -> Any:
    return importlib.import_module("openai").OpenAI(api_key="x", base_url=url, max_retries=0)


def creates_and_polls(url: str) -> None:
    _openai(url).beta.threads.runs.create_and_poll(thread_id="t", assistant_id="a")


def uploads_and_polls(url: str) -> None:
    _openai(url).vector_stores.files.upload_and_poll(vector_store_id="v", file=b"x")


def uploads_in_parts(url: str) -> None:
    upload = _openai(url).uploads.upload_file_chunked
    upload(file=b"x", filename="x", bytes=1, mime_type="text/plain", purpose="assistants")


def makes_a_video(url: str) -> None:
    _openai(url).videos.create_and_poll(prompt="x")


def runs_an_agent(url: str) -> None:
    agents, openai = importlib.import_module("agents"), importlib.import_module("openai")
    agents.set_tracing_disabled(True)

    def pay() -> str:
        return "paid"

    async def run() -> None:
        client = openai.AsyncOpenAI(api_key="x", base_url=url, max_retries=0)
        model = agents.OpenAIChatCompletionsModel(model="m", openai_client=client)
        await agents.Runner.run(agents.Agent(name="a", tools=[agents.function_tool(pay)], model=model), "pay")

    wait_for(run)


def runs_tools(url: str) -> None:
    anthropic = importlib.import_module("anthropic")

    def pay() -> str:
        """Pay."""
        return "paid"

    client = anthropic.Anthropic(api_key="x", base_url=url, max_retries=0)
    said: Any = [{"role": "user", "content": "pay"}]
    client.beta.messages.tool_runner(
        model="m", max_tokens=9, tools=[anthropic.beta_tool(pay)], messages=said
    ).until_done()


def _bucket(url: str) -> Any:
    storage = importlib.import_module("google.cloud.storage")
    credentials = importlib.import_module("google.auth.credentials").AnonymousCredentials()
    client = storage.Client(project="p", credentials=credentials, client_options={"api_endpoint": url})
    return client.bucket("k")


def deletes_blobs(url: str) -> None:
    _bucket(url).delete_blobs(["a", "b"])


def renames_a_blob(url: str) -> None:
    bucket = _bucket(url)
    bucket.rename_blob(bucket.blob("a"), "b", if_generation_match=0)


HELPERS: dict[Callable[[str], None], tuple[str, object]] = {
    creates_and_polls: ("openai", RUN),
    uploads_and_polls: ("openai", {"id": "f", "object": "file"}),
    uploads_in_parts: ("openai", {"id": "f", "object": "upload"}),
    makes_a_video: ("openai", {"id": "v", "object": "video", "status": "queued"}),
    runs_an_agent: ("agents", TOOL_OF_OPENAI),
    runs_tools: ("anthropic", TOOL_OF_ANTHROPIC),
    deletes_blobs: ("google.cloud.storage", {}),
    renames_a_blob: ("google.cloud.storage", {"name": "b", "bucket": "k"}),
}


@pytest.mark.parametrize("helper", HELPERS, ids=lambda helper: helper.__name__)
def test_the_second_request_of_a_helper(helper: Callable[[str], None]) -> None:
    package, first = HELPERS[helper]
    pytest.importorskip(package)
    with saying((200, first), REFUSED) as (url, seen):
        error = failure(helper, url)
    assert len(seen) > 1
    assert type(error).__name__ in ("PermissionDeniedError", "Forbidden"), error
    assert not proves(error)


def test_django_sends_mails_one_after_the_other() -> None:
    django_conf = pytest.importorskip("django.conf")
    mail = pytest.importorskip("django.core.mail")
    if not django_conf.settings.configured:
        django_conf.settings.configure()
    taken: list[str] = []

    def talk(handler: Any) -> None:
        handler.wfile.write(b"220 hello\r\n")
        while line := handler.rfile.readline().decode().strip().lower():
            answer = "221 bye" if line == "quit" else "250 ok"
            if line == "data":
                handler.wfile.write(b"354 go on\r\n")
                while handler.rfile.readline() != b".\r\n":
                    pass
                taken.append("mail")
            elif line.startswith("rcpt") and "refused" in line:
                answer = "550 no such user"
            handler.wfile.write(f"{answer}\r\n".encode())

    def send(*recipients: str) -> None:
        with speaking(talk) as port:
            backend = "django.core.mail.backends.smtp.EmailBackend"
            connection = mail.get_connection(backend, host="127.0.0.1", port=port)
            connection.send_messages([mail.EmailMessage("x", "x", "a@a.example", [to]) for to in recipients])

    assert classify(failure(send, "refused@b.example")) is K.REJECTED
    error = failure(send, "b@b.example", "refused@b.example")
    assert taken
    assert not proves(error)


def test_lmtp_has_an_answer_for_each_recipient() -> None:
    """The client reads only the first one."""
    message = EmailMessage()
    message["From"], message["To"] = "a@a.example", "b@b.example, c@c.example"

    def send(port: int) -> None:
        with smtplib.LMTP("127.0.0.1", port) as client:
            client.send_message(message)

    with mail_server(END="552 too large\r\n250 taken") as (port, _):
        assert not proves(failure(send, port))


# --- several effects in one request ---


@contextmanager
def redis_server(*answers: bytes) -> Iterator[int]:
    """Run a Redis that gives these answers to commands in turn, and OK to a client that introduces itself."""
    left = list(answers)

    def talk(handler: Any) -> None:
        while line := handler.rfile.readline():
            words = [handler.rfile.readline() and handler.rfile.readline().strip() for _ in range(int(line[1:]))]
            is_command = words[0] not in (b"CLIENT", b"HELLO")
            handler.wfile.write((left.pop(0) if is_command else b"+OK") + b"\r\n")

    with speaking(talk) as port:
        yield port


@pytest.mark.parametrize("library", [redis, valkey], ids=["redis", "valkey"])
@pytest.mark.parametrize("refusal", [b"-NOPERM ACL failure in script: no permissions", b"-READONLY says the script"])
def test_a_script_of_redis_that_fails_has_written_before(refusal: bytes, library: Any) -> None:
    """Redis does not take back what a script has written."""

    def client(port: int) -> Any:
        make = library.Redis if library is redis else library.Valkey
        return make("127.0.0.1", port, protocol=2)

    with redis_server(refusal, refusal, refusal) as port, client(port) as db:
        script = "redis.call('INCR', 'paid'); return redis.call('SET', 'secret', 1)"
        assert not proves(failure(db.eval, script, 0))
        assert not proves(failure(db.execute_command, "evalsha", "0" * 40, 0))
        assert proves(failure(db.set, "secret", 1))  # the same refusal of one command


@pytest.mark.parametrize("library", [redis, valkey], ids=["redis", "valkey"])
def test_one_of_the_commands_of_a_transaction_of_redis(library: Any) -> None:
    """A refusal by EXEC leaves the other commands done. A refusal before EXEC discards all."""
    make = library.Redis if library is redis else library.Valkey

    def pay(db: Any) -> None:
        with db.pipeline(transaction=True) as pipeline:
            pipeline.incr("paid").set("secret", 1).execute()

    refusal = b"-NOPERM ACLs rules changed"
    with redis_server(b"+OK", b"+QUEUED", b"+QUEUED", b"*2\r\n:1\r\n" + refusal) as port:
        assert not proves(failure(pay, make("127.0.0.1", port, protocol=2)))
    with redis_server(b"+OK", b"+QUEUED", refusal, b"-EXECABORT Transaction discarded") as port:
        assert proves(failure(pay, make("127.0.0.1", port, protocol=2)))


class _Counts(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """Acts on each message, and refuses the second one."""

    def __init__(self) -> None:
        self.effects = 0

    def service(self, handler_call_details: Any) -> Any:
        def many(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            next(requests)
            self.effects += 1
            next(requests)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
            yield b""

        def one_answer(requests: Iterator[bytes], context: Any) -> bytes:
            return b"".join(many(requests, context))

        if handler_call_details.method == "/x/one":
            return grpc.stream_unary_rpc_method_handler(one_answer)
        return grpc.stream_stream_rpc_method_handler(many)


def test_a_stream_of_grpc_has_several_messages() -> None:
    handler = _Counts()
    server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    async def asynchronous(method: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            if method == "one":
                await channel.stream_unary("/x/one")(iter([b"1", b"2"]))
            else:
                async for _ in channel.stream_stream("/x/many")(iter([b"1", b"2"])):
                    pass

    with ExitStack() as stack:
        stack.callback(lambda: server.stop(None).wait())
        channel = stack.enter_context(grpc.insecure_channel(target))
        errors = [
            failure(channel.stream_unary("/x/one"), iter([b"1", b"2"])),
            failure(lambda: list(channel.stream_stream("/x/many")(iter([b"1", b"2"])))),
            *(failure(lambda each=each: wait_for(lambda: asynchronous(each))) for each in ("one", "many")),
        ]
    assert handler.effects == len(errors)
    for each in errors:
        assert not proves(each), each


# --- what an error has lost, or is not ---


def test_an_answer_that_was_pickled_does_not_show_its_retries(servers: Servers) -> None:
    adapter = requests.adapters.HTTPAdapter(
        max_retries=urllib3.Retry(1, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    )
    with requests.Session() as session:
        session.mount("http://", adapter)
        error = failure(lambda: session.post(f"{servers.url}/then/503/402?key=pickled").raise_for_status())
    assert classify(error) is K.AMBIGUOUS
    assert classify(pickle.loads(pickle.dumps(error))) is K.AMBIGUOUS


def test_a_class_that_another_library_has_derived(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That library may send several requests in one call, as docker's client does. The user's own class is none."""
    text = "import httpx\nclass ApiError(httpx.HTTPStatusError): pass\n"
    for name, folder in (("an_sdk", tmp_path / "site-packages"), ("my_code", tmp_path)):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    answer = httpx.post(f"{servers.url}/status/402", trust_env=False)

    def raise_it(name: str) -> None:
        raise sys.modules[name].ApiError("no", request=answer.request, response=answer)

    error = failure(raise_it, "an_sdk")
    assert classify(error) is K.AMBIGUOUS
    assert classify(error, profile=ONE) is K.DECLINED
    assert classify(failure(raise_it, "my_code")) is K.DECLINED


class CodedError(Exception):
    code = ""

    def __init__(self, status: int | None = None) -> None:
        super().__init__("no")
        self.code = "gone"
        if status is not None:
            self.status_code, self.headers = status, dict[str, str]()


@pytest.mark.parametrize("status", [None, 302, 409])
def test_a_code_that_refuses_is_no_proof_if_its_library_may_retry(status: int | None) -> None:
    """Also if the status, or the class, is of a kind that would prove nothing anyway."""
    for statuses in ({}, {409: K.IN_PROGRESS}):
        profile = Profile(codes={"gone": K.DECLINED}, statuses=statuses)
        assert classify(CodedError(status), profile=profile) is K.AMBIGUOUS
        one = Profile(codes={"gone": K.DECLINED}, statuses=statuses, client_retries=False)
        assert classify(CodedError(status), profile=one) is K.DECLINED
