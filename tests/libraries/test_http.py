"""HTTP clients against a server that fails in each way: every one sees it as another exception, all mean the same."""

from __future__ import annotations

import asyncio
import functools
import http.client
import importlib
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aiohttp
import httpx
import pytest
import requests
import stamina
import tenacity
import urllib3

from temporal_saga.classification._read import code_of, headers_of, hides_code, kind_of, retry_hint, status_of
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure, wait_for
from tests.libraries.servers import Servers, listening_once, serve

WAIT = 0.3  # seconds: how long a client waits for what never comes; for all else it waits longer
K = FailureKind

Post = Callable[..., object]


# httpx2 is the same library under another name, and needs Python 3.11.
HTTPX: dict[str, Any] = {"httpx": importlib.import_module("httpx")}
if sys.version_info >= (3, 11):
    HTTPX["httpx2"] = importlib.import_module("httpx2")


def posts_of(httpx: Any) -> tuple[Post, Post]:
    """Return how to post with httpx, or with the same library under another name: sync and async."""

    def post(url: str, **options: Any) -> object:
        connect, read = waits(url)
        timeout = httpx.Timeout(20, connect=connect, read=read)
        with httpx.Client(timeout=timeout, trust_env=False, **options) as client:
            return client.post(url, content=b"x").raise_for_status()

    def post_async(url: str, **options: Any) -> object:
        connect, read = waits(url)
        timeout = httpx.Timeout(20, connect=connect, read=read)

        async def post() -> object:
            async with httpx.AsyncClient(timeout=timeout, trust_env=False, **options) as client:
                return (await client.post(url, content=b"x")).raise_for_status()

        return wait_for(post)

    return post, post_async


def post_with_requests(url: str, **options: Any) -> object:
    with requests.Session() as session:
        session.trust_env = False
        response = session.post(url, data=b"x", timeout=waits(url), **options)
        response.raise_for_status()
        return response


def post_with_aiohttp(url: str, **options: Any) -> object:
    # Not `total=`, whose TimeoutError does not say what it was waiting for.
    connect, read = waits(url)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=read)

    async def post() -> object:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=b"x", **options) as response,
        ):
            response.raise_for_status()
            return await response.read()

    return wait_for(post)


def post_with_urllib3(url: str) -> object:
    connect, read = waits(url)
    timeout = urllib3.Timeout(connect=connect, read=read)
    with urllib3.PoolManager(retries=False, timeout=timeout, cert_reqs="CERT_REQUIRED") as pool:
        return pool.request("POST", url, body=b"x")


def post_with_urllib(url: str) -> object:
    request = urllib.request.Request(url, data=b"x")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=min(waits(url))) as response:
        return response.read()


def post_with_http_client(url: str) -> object:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    make = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=min(waits(url)))
    try:
        connection.request("POST", parts.path, body=b"x")
        return connection.getresponse().read()
    finally:
        connection.close()


HTTPX_CLIENTS: dict[str, Post] = {}
for name, module in HTTPX.items():
    HTTPX_CLIENTS[name], HTTPX_CLIENTS[f"{name}-async"] = posts_of(module)

CLIENTS: dict[str, Post] = {
    **HTTPX_CLIENTS,
    "requests": post_with_requests,
    "aiohttp": post_with_aiohttp,
    "urllib3": post_with_urllib3,
    "urllib": post_with_urllib,
    "http.client": post_with_http_client,
}
WITH_STATUS = {name: CLIENTS[name] for name in (*HTTPX_CLIENTS, "requests", "aiohttp", "urllib")}


def post_with_a_pool(url: str) -> object:
    with urllib3.PoolManager(retries=urllib3.Retry(0, redirect=3)) as pool:
        return pool.request("POST", url, body=b"x")


FOLLOWING: dict[str, Post] = {
    **{name: functools.partial(post, follow_redirects=True) for name, post in HTTPX_CLIENTS.items()},
    "requests": post_with_requests,
    "aiohttp": post_with_aiohttp,
    "urllib": post_with_urllib,
    "urllib3-pool": post_with_a_pool,
}


def waits(url: str) -> tuple[float, float]:
    """Return how long to wait for a connection, and for an answer."""
    return (WAIT if "/connect" in url else 20), (WAIT if "/stall" in url else 20)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


def kind(post: Post, url: str) -> FailureKind:
    return kind_of(failure(post, url), (), {})


# --- no connection ---


async def test_a_put_that_aiohttp_sends_again_and_cannot() -> None:
    puts = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(1000):
            if head.startswith(b"PUT"):
                puts.append(head)
                server.close()
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with aiohttp.ClientSession() as session:
        await session.get(url)
        with pytest.raises(aiohttp.ClientConnectorError) as raised:
            await session.put(url)
    assert len(puts) == 1
    assert kind_of(raised.value, (), {}) is K.AMBIGUOUS


@pytest.mark.parametrize(("method", "expected"), [("DELETE", K.AMBIGUOUS), ("PUT", K.AMBIGUOUS), ("POST", K.REJECTED)])
async def test_an_answer_to_what_aiohttp_may_have_sent_before(
    method: str, expected: FailureKind, servers: Servers
) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        with pytest.raises(aiohttp.ClientResponseError) as raised:
            await session.request(method, f"{servers.url}/status/404")
    assert kind_of(raised.value, (), {}) is expected


def test_the_last_of_urllib3s_own_tries_is_no_proof(servers: Servers) -> None:
    with urllib3.PoolManager(retries=urllib3.Retry(1, backoff_factor=0)) as pool:
        error = failure(lambda url: pool.request("PUT", url), f"http://127.0.0.1:{servers.refusing}/")
    assert isinstance(error, urllib3.exceptions.MaxRetryError)
    assert kind_of(error, (), {}) is K.AMBIGUOUS


@pytest.mark.parametrize("post", CLIENTS.values(), ids=CLIENTS)
def test_a_refused_connection(post: Post, servers: Servers) -> None:
    assert kind(post, f"http://127.0.0.1:{servers.refusing}/") is K.NOT_SENT


@pytest.mark.parametrize("post", CLIENTS.values(), ids=CLIENTS)
def test_a_name_that_no_one_has(post: Post) -> None:
    assert kind(post, "http://name.invalid/") is K.NOT_SENT


@pytest.mark.parametrize("post", CLIENTS.values(), ids=CLIENTS)
def test_a_certificate_that_is_not_trusted(post: Post, servers: Servers) -> None:
    assert kind(post, f"{servers.untrusted}/status/200") is K.NOT_SENT


# httpx and aiohttp have an error of their own for the handshake.
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        *((name, K.NOT_SENT) for name in HTTPX_CLIENTS),
        ("aiohttp", K.NOT_SENT),
        ("requests", K.AMBIGUOUS),
        ("urllib3", K.AMBIGUOUS),
        ("urllib", K.AMBIGUOUS),
        ("http.client", K.AMBIGUOUS),
    ],
)
def test_a_handshake_that_fails_otherwise(client: str, expected: FailureKind, servers: Servers) -> None:
    assert kind(CLIENTS[client], servers.url.replace("http:", "https:") + "/status/200") is expected


# The standard library does not say whether it was connecting, sending or reading that took too long.
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        *((name, K.NOT_SENT) for name in HTTPX_CLIENTS),
        ("requests", K.NOT_SENT),
        ("aiohttp", K.NOT_SENT),
        ("urllib3", K.NOT_SENT),
        ("urllib", K.AMBIGUOUS),
        ("http.client", K.AMBIGUOUS),
    ],
)
def test_a_connection_that_takes_too_long(client: str, expected: FailureKind, servers: Servers) -> None:
    assert kind(CLIENTS[client], f"http://127.0.0.1:{servers.full}/connect") is expected


@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp"])
def test_a_proxy_that_refuses(client: str, servers: Servers) -> None:
    proxy = f"http://127.0.0.1:{servers.refusing}"
    options = {"proxies": {"http": proxy}} if client == "requests" else {"proxy": proxy}
    assert kind(lambda url: CLIENTS[client](url, **options), f"{servers.url}/status/200") is K.NOT_SENT


# The server does what the path says; for CONNECT that is host and port, and so a refusal. requests (urllib3) has an
# OSError for it.
@pytest.mark.parametrize(
    ("client", "expected"),
    [*((name, K.NOT_SENT) for name in HTTPX_CLIENTS), ("requests", K.AMBIGUOUS), ("aiohttp", K.AMBIGUOUS)],
)
def test_a_proxy_that_answers_no(client: str, expected: FailureKind, servers: Servers) -> None:
    options = {"proxies": {"https": servers.url}} if client == "requests" else {"proxy": servers.url}
    assert kind(lambda url: CLIENTS[client](url, **options), "https://127.0.0.1:1/") is expected


# urllib3 says "Unable to connect to proxy" of these.
@pytest.mark.parametrize("what", ["reset", "close"])
@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp", "urllib3"])
def test_a_proxy_that_hands_the_request_on_and_is_lost(client: str, what: str, servers: Servers) -> None:
    def post(url: str) -> object:
        if client == "urllib3":
            with urllib3.ProxyManager(servers.url, retries=False) as pool:
                return pool.request("POST", url, body=b"x")
        options = {"proxies": {"http": servers.url}} if client == "requests" else {"proxy": servers.url}
        return CLIENTS[client](url, **options)

    assert kind(post, f"http://name.invalid/{what}") is K.AMBIGUOUS


@pytest.mark.parametrize("httpx", HTTPX.values(), ids=HTTPX)
def test_a_pool_without_a_free_connection(httpx: Any, servers: Servers) -> None:
    one, timeout = httpx.Limits(max_connections=1), httpx.Timeout(20, pool=WAIT)
    with (
        httpx.Client(timeout=timeout, limits=one, trust_env=False) as client,
        client.stream("POST", f"{servers.url}/half"),
    ):
        error = failure(client.post, f"{servers.url}/status/200")
    assert isinstance(error, httpx.PoolTimeout)
    assert kind_of(error, (), {}) is K.NOT_SENT


@pytest.mark.parametrize("url", ["gopher://127.0.0.1/", "/nowhere", "http://", "http://127.0.0.1:port/"])
@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp", "urllib3", "urllib"])
def test_what_is_no_address_is_a_bug(client: str, url: str) -> None:
    assert kind(CLIENTS[client], url) is K.BUG


def test_a_connection_that_is_used_in_the_wrong_order() -> None:
    connection = http.client.HTTPConnection("127.0.0.1")
    assert kind(lambda _: connection.getresponse(), "") is K.BUG


# --- no answer, or not all of it ---


@pytest.mark.parametrize("what", ["stall", "reset", "close", "half", "chunk", "garbage"])
@pytest.mark.parametrize("post", CLIENTS.values(), ids=CLIENTS)
def test_what_was_sent_and_not_answered(post: Post, what: str, servers: Servers) -> None:
    assert kind(post, f"{servers.url}/{what}") is K.AMBIGUOUS


@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp", "urllib3"])
def test_an_answer_that_cannot_be_unpacked(client: str, servers: Servers) -> None:
    assert kind(CLIENTS[client], f"{servers.url}/gzip") is K.AMBIGUOUS


def test_a_wait_of_asyncio(servers: Servers) -> None:
    async def post() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.wait_for(session.post(f"{servers.url}/stall", data=b"x"), WAIT)

    assert kind(lambda url: wait_for(post), "") is K.AMBIGUOUS


def test_an_answer_of_another_type_than_expected(servers: Servers) -> None:
    async def post() -> Any:
        async with aiohttp.ClientSession() as session, session.post(f"{servers.url}/text") as response:
            return await response.json(content_type="application/xml")

    error = failure(lambda url: wait_for(post), "")
    assert status_of(error) == 200
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_the_status_that_aiohttp_makes_up_is_no_answer(servers: Servers) -> None:
    error = failure(post_with_aiohttp, f"{servers.url}/garbage")
    assert isinstance(error, aiohttp.ClientResponseError)
    assert error.status == 400
    assert status_of(error) is None


# --- an answer ---

STATUSES = {
    400: K.REJECTED,
    401: K.AUTH,
    402: K.DECLINED,
    403: K.AUTH,
    404: K.REJECTED,
    405: K.REJECTED,
    406: K.REJECTED,
    407: K.AUTH,
    408: K.AMBIGUOUS,
    409: K.REJECTED,
    410: K.REJECTED,
    411: K.REJECTED,
    412: K.REJECTED,
    413: K.REJECTED,
    414: K.REJECTED,
    415: K.REJECTED,
    418: K.REJECTED,
    421: K.NOT_SENT,
    422: K.REJECTED,
    425: K.NOT_SENT,
    428: K.REJECTED,
    429: K.THROTTLED,
    431: K.REJECTED,
    499: K.AMBIGUOUS,
    500: K.AMBIGUOUS,
    501: K.REJECTED,
    502: K.AMBIGUOUS,
    503: K.AMBIGUOUS,
    504: K.AMBIGUOUS,
    505: K.REJECTED,
    520: K.AMBIGUOUS,
    524: K.AMBIGUOUS,
    529: K.AMBIGUOUS,
    599: K.AMBIGUOUS,
}


@pytest.mark.parametrize("post", WITH_STATUS.values(), ids=WITH_STATUS)
def test_statuses(post: Post, servers: Servers) -> None:
    seen = {}
    for status in STATUSES:
        error = failure(post, f"{servers.url}/status/{status}")
        assert status_of(error) == status
        assert code_of(error) is None
        assert retry_hint(error) is None
        seen[status] = kind_of(error, (), {})
    assert seen == STATUSES


@pytest.mark.parametrize("client", HTTPX_CLIENTS)
def test_a_redirect_that_is_not_followed(client: str, servers: Servers) -> None:
    assert kind(CLIENTS[client], f"{servers.url}/redirect/200") is K.BUG


@pytest.mark.parametrize("post", WITH_STATUS.values(), ids=WITH_STATUS)
def test_a_status_of_the_users_own(post: Post, servers: Servers) -> None:
    statuses = {409: K.IN_PROGRESS, 503: K.NOT_SENT}
    assert kind_of(failure(post, f"{servers.url}/status/409"), (), statuses) is K.IN_PROGRESS
    assert kind_of(failure(post, f"{servers.url}/status/503?Retry-After=1"), (), statuses) is K.NOT_SENT


@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp"])
def test_an_answer_after_a_redirect_proves_nothing_of_the_first_request(client: str, servers: Servers) -> None:
    options = {"follow_redirects": True} if client.startswith("httpx") else {}
    error = failure(lambda url: CLIENTS[client](url, **options), f"{servers.url}/redirect/404")
    assert status_of(error) == 404
    assert kind_of(error, (), {}) is K.AMBIGUOUS


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/", "/loop"])
@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp"])
def test_a_redirect_that_leads_nowhere_is_no_proof(client: str, where: str, servers: Servers) -> None:
    options = {"follow_redirects": True} if client.startswith("httpx") else {}
    error = failure(lambda url: CLIENTS[client](url, **options), f"{servers.url}/moved?Location={quote(where)}")
    assert kind_of(error, (), {}).effect == "unknown"


@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests", "aiohttp", "urllib", "urllib3-pool"])
def test_a_redirect_to_where_no_one_listens_proves_nothing_of_the_first_request(client: str, servers: Servers) -> None:
    where = f"http://127.0.0.1:{servers.refusing}/"
    error = failure(lambda url: FOLLOWING[client](url), f"{servers.url}/moved?Location={where}")
    assert kind_of(error, (), {}).effect == "unknown"
    assert kind_of(error, (), {}, client_retries=False).effect == "unknown"  # what it shows comes first


def test_an_answer_after_a_redirect_of_urllibs_own(servers: Servers) -> None:
    error = failure(post_with_urllib, f"{servers.url}/redirect/404")
    assert status_of(error) == 404
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_an_exception_without_its_traceback_shows_nothing(servers: Servers) -> None:
    """As one that has come from another process: the row of the library decides then, or the user."""
    for client in ("requests", "aiohttp", "urllib", "urllib3"):
        error = failure(CLIENTS[client], f"http://127.0.0.1:{servers.refusing}/")
        for each in (error, *error.args):
            if isinstance(each, BaseException):
                each.__traceback__ = None
        assert kind_of(error, (), {}) is K.AMBIGUOUS, client
        assert kind_of(error, (), {}, client_retries=False) is K.NOT_SENT, client


@pytest.mark.parametrize("status", [402, 404, 429])
def test_the_retries_that_requests_is_told_to_make(status: int, servers: Servers) -> None:
    """A definite answer to the second try, after one that is answered with 500."""
    with requests.Session() as session:
        retry = urllib3.Retry(1, status_forcelist=[500], allowed_methods=None, backoff_factor=0)
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
        once = session.post(f"{servers.url}/status/{status}")
        again = session.post(f"{servers.url}/then/500/{status}?key={uuid4()}")
    first, second = (failure(lambda _, answer=answer: answer.raise_for_status(), "") for answer in (once, again))
    assert (status_of(first), status_of(second)) == (status, status)
    assert kind_of(first, (), {}).effect == "none"
    assert kind_of(second, (), {}).effect == "unknown"


def test_a_try_that_is_refused_after_one_that_was_sent(servers: Servers) -> None:
    """Both libraries say of each that the connection was refused."""

    def post(url: str) -> object:
        with requests.Session() as session:
            adapter = requests.adapters.HTTPAdapter(max_retries=urllib3.Retry(1, allowed_methods=None))
            session.mount("http://", adapter)
            return session.post(url, data=b"x")

    with listening_once() as url:
        assert kind(post, url) is K.AMBIGUOUS
    with listening_once() as url, urllib3.PoolManager(retries=urllib3.Retry(1, allowed_methods=None)) as pool:
        assert kind(lambda url: pool.request("PUT", url), url) is K.AMBIGUOUS


def test_a_pool_that_is_full_in_a_second_try(servers: Servers) -> None:
    """urllib3 does not wrap this one in a MaxRetryError."""
    with urllib3.HTTPConnectionPool("127.0.0.1", servers.refusing, maxsize=1, block=True) as pool:
        full = pool._get_conn(timeout=1)
        first = failure(lambda url: pool.request("PUT", url, pool_timeout=WAIT), "/")
        pool._put_conn(full)
    assert isinstance(first, urllib3.exceptions.EmptyPoolError)
    assert kind_of(first, (), {}) is K.NOT_SENT


TIMES = 2


def tenacious(call: Callable[[], object]) -> Callable[[], object]:
    return tenacity.retry(reraise=True, stop=tenacity.stop_after_attempt(TIMES))(call)


def in_a_loop(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        for attempt in tenacity.Retrying(reraise=True, stop=tenacity.stop_after_attempt(TIMES)):
            with attempt:
                return call()
        return None

    return run


def stamina_retries(call: Callable[[], object]) -> Callable[[], object]:
    return stamina.retry(on=httpx.HTTPError, attempts=TIMES, wait_initial=0, wait_jitter=0)(call)


@pytest.mark.parametrize("around", [tenacious, in_a_loop, stamina_retries])
def test_what_tries_again_around_a_client(around: Callable[..., Any], servers: Servers) -> None:
    """The last try of several proves nothing, and the only one does."""
    several = around(lambda: CLIENTS["httpx"](f"http://127.0.0.1:{servers.refusing}/"))
    assert kind(lambda _: several(), "") is K.AMBIGUOUS
    answers = iter([500, 402])
    mixed = around(lambda: CLIENTS["httpx"](f"{servers.url}/status/{next(answers)}"))
    assert kind(lambda _: mixed(), "") is K.AMBIGUOUS


def test_one_try_of_what_might_try_again(servers: Servers) -> None:
    retry = tenacity.retry(reraise=True, retry=tenacity.retry_if_exception_type(httpx.ReadError))
    assert kind(retry(CLIENTS["httpx"]), f"{servers.url}/status/402") is K.DECLINED


# --- the code in a body ---


@pytest.mark.parametrize("client", [*HTTPX_CLIENTS, "requests"])
def test_the_code_in_the_body_of_an_answer(client: str, servers: Servers) -> None:
    error = failure(CLIENTS[client], f"{servers.url}/says/400/704")
    assert code_of(error) == "704"
    assert not hides_code(error)


# aiohttp's error has no body, and reading urllib's would wait for the rest of it.
@pytest.mark.parametrize("client", ["aiohttp", "urllib"])
def test_a_body_that_the_error_does_not_have(client: str, servers: Servers) -> None:
    error = failure(CLIENTS[client], f"{servers.url}/says/400/704")
    assert code_of(error) is None
    assert hides_code(error)


@pytest.mark.parametrize("client", [*HTTPX, "requests"])
def test_a_body_that_was_not_read_is_not_read_for_its_code(client: str, servers: Servers) -> None:
    url = f"{servers.url}/says/400/704"
    if client == "requests":
        with requests.post(url, data=b"x", stream=True, timeout=20) as response:
            error = failure(lambda _: response.raise_for_status(), url)
            assert code_of(error) is None
            assert hides_code(error)
            assert response.content  # it is all there still
    else:
        with HTTPX[client].Client(trust_env=False) as http, http.stream("POST", url) as response:
            error = failure(lambda _: response.raise_for_status(), url)
            assert code_of(error) is None
            assert hides_code(error)
            assert response.read()


# --- asked to wait ---


@pytest.mark.parametrize(
    ("status", "expected"), [(429, K.THROTTLED), (503, K.THROTTLED), (500, K.AMBIGUOUS), (402, K.DECLINED)]
)
@pytest.mark.parametrize("post", WITH_STATUS.values(), ids=WITH_STATUS)
def test_retry_after_seconds(post: Post, status: int, expected: FailureKind, servers: Servers) -> None:
    error = failure(post, f"{servers.url}/status/{status}?ReTRY-aFTER=7")
    assert kind_of(error, (), {}) is expected
    assert retry_hint(error) == timedelta(seconds=7)
    assert headers_of(error)["retry-after"] == "7"


@pytest.mark.parametrize("post", WITH_STATUS.values(), ids=WITH_STATUS)
def test_retry_after_a_date(post: Post, servers: Servers) -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)
    error = failure(post, f"{servers.url}/status/503?Retry-After={quote(date)}")
    assert kind_of(error, (), {}) is K.THROTTLED
    hint = retry_hint(error)
    assert hint is not None
    assert timedelta(minutes=58) < hint <= timedelta(hours=1)


@pytest.mark.parametrize("post", WITH_STATUS.values(), ids=WITH_STATUS)
def test_retry_after_milliseconds_is_the_finer_one(post: Post, servers: Servers) -> None:
    error = failure(post, f"{servers.url}/status/429?retry-after-ms=1500&Retry-After=2")
    assert retry_hint(error) == timedelta(milliseconds=1500)
