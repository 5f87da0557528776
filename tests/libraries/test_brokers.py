"""Brokers: the real clients of RabbitMQ, NATS and Kafka, against servers that speak enough of their protocols.

Each broker does what it is told with the first message that comes in whole, and counts the messages that it has taken.
"""

from __future__ import annotations

import gc
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pika
import pika.exceptions
import pika.frame
import pytest
from pika import spec

from temporal_saga.classification import Profile, classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure, wait_for
from tests.libraries.servers import refusing_port, reset, speaking

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

ONE = Profile(client_retries=False)


# --- RabbitMQ ---

_CAPABILITIES = dict.fromkeys(["basic.nack", "connection.blocked", "publisher_confirms"], True)


@contextmanager
def rabbit(what: str) -> Iterator[tuple[int, list[bytes]]]:
    """Run a broker that does `what` with a message. Gives its port, and the messages that it has taken."""
    taken: list[bytes] = []
    over = threading.Event()

    def talk(handler: Any) -> None:
        def send(channel: int, method: Any) -> None:
            handler.wfile.write(pika.frame.Method(channel, method).marshal())

        handler.rfile.read(8)
        if what == "silent":
            over.wait(20)
            return
        if what == "lost as it connects":
            return
        send(0, spec.Connection.Start(server_properties={"capabilities": _CAPABILITIES}))
        data = b""
        while byte := handler.connection.recv(65536):
            data += byte
            while True:
                used, frame = pika.frame.decode_frame(data)
                if frame is None:
                    break
                data = data[used:]
                if isinstance(frame, pika.frame.Body):
                    if what not in ("unroutable", "channel 403", "connection 320"):
                        taken.append(frame.fragment)
                    if not answer(handler, send, frame.channel_number):
                        return
                elif isinstance(frame, pika.frame.Method):
                    method = frame.method
                    if isinstance(method, spec.Connection.StartOk):
                        if what == "password":
                            send(0, spec.Connection.Close(403, "ACCESS_REFUSED", 0, 0))
                        else:
                            send(0, spec.Connection.Tune(0, 131072, 0))
                    elif isinstance(method, spec.Connection.Open):
                        send(0, spec.Connection.OpenOk())
                    elif isinstance(method, spec.Channel.Open):
                        send(frame.channel_number, spec.Channel.OpenOk())
                    elif isinstance(method, spec.Confirm.Select):
                        send(frame.channel_number, spec.Confirm.SelectOk())
                    elif isinstance(method, spec.Channel.Close):
                        send(frame.channel_number, spec.Channel.CloseOk())
                    elif isinstance(method, spec.Connection.Close):
                        send(0, spec.Connection.CloseOk())
                        return

    def answer(handler: Any, send: Callable[[int, Any], None], channel: int) -> bool:
        if what == "reset":
            reset(handler)
            return False
        if what == "close":
            return False
        if what == "stall":
            send(0, spec.Connection.Blocked("no memory"))
        elif what == "nack":
            send(channel, spec.Basic.Nack(1))
        elif what == "channel 404":
            send(channel, spec.Channel.Close(404, "no exchange", 60, 40))
        elif what == "channel 403":
            send(channel, spec.Channel.Close(403, "refused", 60, 40))
        elif what == "connection 320":
            send(0, spec.Connection.Close(320, "shutdown", 0, 0))
        elif what == "unroutable":
            send(channel, spec.Basic.Return(312, "NO_ROUTE", "", "q"))
            handler.wfile.write(pika.frame.Header(channel, 1, spec.BasicProperties()).marshal())
            handler.wfile.write(pika.frame.Body(channel, b"x").marshal())
            send(channel, spec.Basic.Ack(1))
        else:
            send(channel, spec.Basic.Ack(1))
        return True

    try:
        with speaking(talk) as port:
            yield port, taken
            over.set()
    finally:
        over.set()


def publish(port: int) -> None:
    parameters = pika.ConnectionParameters(
        "127.0.0.1", port, socket_timeout=1, stack_timeout=1, blocked_connection_timeout=0.3
    )
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", "q", b"x", mandatory=True)
    finally:
        if connection.is_open:
            connection.close()


def test_pika_refused() -> None:
    with refusing_port() as port:
        assert classify(failure(lambda: publish(port))) is K.NOT_SENT


@pytest.mark.parametrize(
    ("what", "expected", "has_taken"),
    [
        ("lost as it connects", K.AMBIGUOUS, False),
        ("silent", K.NOT_SENT, False),
        ("password", K.AUTH, False),
        ("stall", K.AMBIGUOUS, True),
        ("reset", K.AMBIGUOUS, True),
        ("close", K.AMBIGUOUS, True),
        ("nack", K.AMBIGUOUS, True),
        ("channel 404", K.AMBIGUOUS, True),
        ("channel 403", K.AMBIGUOUS, False),
        ("connection 320", K.AMBIGUOUS, False),
        ("unroutable", K.REJECTED, False),
    ],
)
def test_pika(what: str, expected: FailureKind, has_taken: bool) -> None:
    """What a broker says after a message proves nothing, except that it was not routed."""
    with rabbit(what) as (port, taken):
        kind = classify(failure(lambda: publish(port)))
    assert bool(taken) is has_taken
    assert kind is expected


# --- NATS ---


@contextmanager
def nats_server(answer: bytes | str) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server that gives an answer to each request; or is `silent`, or does a `reset`, after it has taken one."""
    taken: list[bytes] = []

    def talk(handler: Any) -> None:
        def say(line: bytes) -> None:
            handler.wfile.write(line + b"\r\n")

        say(b'INFO {"server_id": "x", "version": "2.11.0", "max_payload": 10, "headers": true, "auth_required": false}')
        inbox = b"1"
        while line := handler.rfile.readline():
            word, *rest = line.split()
            if word == b"CONNECT" and answer == "password":
                say(b"-ERR 'Authorization Violation'")
                return
            if word == b"PING":
                say(b"PONG")
            elif word == b"SUB":
                inbox = rest[-1]
            elif word in (b"PUB", b"HPUB"):
                body = handler.rfile.read(int(rest[-1]) + 2)
                reply = rest[1]
                if answer == b"":  # nobody is there
                    status = b"NATS/1.0 503\r\n\r\n"
                    say(b"HMSG %s %s %d %d\r\n%s" % (reply, inbox, len(status), len(status), status))
                    continue
                if answer == "reset":
                    taken.append(body)
                    reset(handler)
                    return
                if answer == "silent":
                    taken.append(body)
                elif isinstance(answer, bytes):
                    if json.loads(answer).get("error", {"code": 500})["code"] >= 500:
                        taken.append(body)
                    say(b"MSG %s %s %d\r\n%s" % (reply, inbox, len(answer), answer))

    with speaking(talk) as port:
        yield port, taken


def request(port: int, *, stream: bool = False, payload: bytes = b"x") -> object:
    async def silent(_: Exception) -> None:
        pass

    async def run() -> None:
        client = await nats.connect(
            f"nats://127.0.0.1:{port}", allow_reconnect=False, max_reconnect_attempts=1, error_cb=silent
        )
        try:
            if stream:
                await client.jetstream(timeout=0.5).publish("s", payload)
            else:
                await client.request("s", payload, timeout=0.5)
        finally:
            await client.close()

    return wait_for(run)


def test_nats_refused() -> None:
    with refusing_port() as port:
        assert classify(failure(lambda: request(port))) is K.NOT_SENT


def _error(code: int) -> bytes:
    return json.dumps({"error": {"code": code, "err_code": 10000 + code, "description": "no"}}).encode()


@pytest.mark.parametrize("stream", [False, True], ids=["request", "stream"])
@pytest.mark.parametrize(
    ("answer", "expected", "has_taken"),
    [
        ("password", K.AMBIGUOUS, False),
        ("silent", K.AMBIGUOUS, True),
        ("reset", K.AMBIGUOUS, True),
        (b"", K.NOT_SENT, False),
        (_error(400), K.REJECTED, False),
        (_error(404), K.REJECTED, False),
        (_error(500), K.AMBIGUOUS, True),
        (_error(503), K.AMBIGUOUS, True),
    ],
    ids=["password", "silent", "reset", "nobody", "400", "404", "500", "503"],
)
def test_nats(stream: bool, answer: bytes | str, expected: FailureKind, has_taken: bool) -> None:
    if not stream and isinstance(answer, bytes) and answer:
        return  # an answer to a request is the application's
    with nats_server(answer) as (port, taken):
        kind = classify(failure(lambda: request(port, stream=stream)))
    assert bool(taken) is has_taken
    assert kind is expected


def test_nats_a_message_that_is_too_long() -> None:
    with nats_server("silent") as (port, taken):
        assert classify(failure(lambda: request(port, payload=b"x" * 100))) is K.REJECTED
    assert not taken


# --- Kafka ---


class Kafka:
    """A broker for one topic.

    Attributes:
        told: What to do with each batch that is produced: an error's number, `reset` or `stall` after it was taken.
        taken: How many batches were appended.
    """

    def __init__(self, *told: int | str) -> None:
        from kafka.protocol.metadata import ApiVersionsResponse, MetadataResponse
        from kafka.protocol.producer import InitProducerIdResponse, ProduceResponse

        self.told = list(told)
        self.taken = 0
        self.over = threading.Event()
        self.port = 0
        self._responses: dict[int, Any] = {
            each.API_KEY: each
            for each in (ApiVersionsResponse, InitProducerIdResponse, MetadataResponse, ProduceResponse)
        }

    def talk(self, handler: Any) -> None:
        while head := handler.rfile.read(12):
            size, key, version, number = struct.unpack(">ihhi", head)
            handler.rfile.read(size - 8)
            answer = self._answer(key, version)
            if isinstance(answer, str):
                if answer == "reset":
                    reset(handler)
                else:
                    self.over.wait(20)
                return
            answer.with_header(number)
            handler.wfile.write(answer.encode(header=True, framed=True))

    def _answer(self, key: int, version: int) -> Any:
        of = self._responses[key]
        name = of.__name__
        if name == "ApiVersionsResponse":
            offered = {0: (3, 7), 1: (4, 4), 3: (1, 5), 18: (0, 4), 22: (0, 1)}  # 1: no one asks for it
            keys = [of.ApiVersion(api_key=k, min_version=a, max_version=b) for k, (a, b) in offered.items()]
            return of(version=version, error_code=0, api_keys=keys, throttle_time_ms=0)
        if name == "MetadataResponse":
            topic = of.MetadataResponseTopic
            partition = topic.MetadataResponsePartition
            one = partition(
                error_code=0, partition_index=0, leader_id=1, replica_nodes=[1], isr_nodes=[1], offline_replicas=[]
            )
            return of(
                version=version,
                throttle_time_ms=0,
                brokers=[of.MetadataResponseBroker(node_id=1, host="127.0.0.1", port=self.port, rack=None)],
                cluster_id="x",
                controller_id=1,
                topics=[topic(error_code=0, name="t", is_internal=False, partitions=[one])],
            )
        if name == "InitProducerIdResponse":
            return of(version=version, throttle_time_ms=0, error_code=0, producer_id=7, producer_epoch=0)
        told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(told, str):
            self.taken += 1
            return told
        part = of.TopicProduceResponse.PartitionProduceResponse(
            index=0, error_code=told, base_offset=0, log_append_time_ms=-1, log_start_offset=0
        )
        topic = of.TopicProduceResponse(name="t", partition_responses=[part])
        return of(version=version, responses=[topic], throttle_time_ms=0)


@contextmanager
def kafka(*told: int | str) -> Iterator[Kafka]:
    broker = Kafka(*told)
    try:
        with speaking(broker.talk) as broker.port:
            yield broker
            broker.over.set()
    finally:
        broker.over.set()


def produce(port: int, *, again: bool, size: int = 1) -> object:
    from kafka import KafkaProducer

    options: dict[str, Any] = {} if again else {"retries": 0, "enable_idempotence": False}
    producer = KafkaProducer(
        bootstrap_servers=f"127.0.0.1:{port}",
        bootstrap_timeout_ms=1000,
        max_block_ms=2000,
        request_timeout_ms=500,
        delivery_timeout_ms=3000,
        retry_backoff_ms=10,
        reconnect_backoff_ms=10,
        max_request_size=1000,
        **options,
    )
    try:
        return producer.send("t", b"x" * size, partition=0).get(timeout=5)
    finally:
        producer.close(timeout=1)


@pytest.fixture(scope="module", autouse=True)
def _sockets_that_kafka_leaves_open() -> Iterator[None]:
    """Python warns of them when it finds them: here the warning is ignored."""
    yield
    gc.collect()


def test_kafka_refused() -> None:
    with refusing_port() as port:
        error = failure(lambda: produce(port, again=False))
    assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS


@pytest.mark.parametrize("outcome", ["stall", "reset"])
def test_kafka_gives_no_answer(outcome: str) -> None:
    with kafka(outcome) as broker:
        error = failure(lambda: produce(broker.port, again=False))
    assert broker.taken == 1
    assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (29, K.AUTH),  # TOPIC_AUTHORIZATION_FAILED
        (31, K.AUTH),  # CLUSTER_AUTHORIZATION_FAILED
        (7, K.AMBIGUOUS),  # REQUEST_TIMED_OUT: it may have been appended
        (20, K.AMBIGUOUS),  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
        (-1, K.AMBIGUOUS),
    ],
)
def test_kafka_errors(number: int, expected: FailureKind) -> None:
    """Its producers send a batch again by themselves, unless they are told not to."""
    with kafka(number) as broker:
        error = failure(lambda: produce(broker.port, again=False))
    assert classify(error, profile=ONE) is expected
    assert classify(error).effect == "unknown"


def test_kafka_a_message_that_is_too_long() -> None:
    with kafka(0) as broker:
        error = failure(lambda: produce(broker.port, again=False, size=5000))
    assert classify(error, profile=ONE) is K.REJECTED
    assert classify(error).effect == "unknown"


def test_kafka_the_answer_to_a_second_batch_proves_nothing_of_the_first() -> None:
    with kafka("reset", 29) as broker:
        error = failure(lambda: produce(broker.port, again=True))
    assert broker.taken == 1
    assert classify(error).effect == "unknown"


def produce_with_librdkafka(port: int, *, again: bool) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")
    config = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "message.timeout.ms": 2000,
        "request.timeout.ms": 500,
        "retries": 2 if again else 0,
        "retry.backoff.ms": 1,
        "log_level": 0,
    }
    failures: list[Any] = []
    producer = confluent_kafka.Producer(config)
    producer.produce("t", b"x", partition=0, on_delivery=lambda error, _: failures.append(error))
    producer.flush(5)
    if failures[0]:
        raise confluent_kafka.KafkaException(failures[0])


def test_confluent_kafka() -> None:
    """Nothing that it says is a proof, whatever the user says."""
    with refusing_port() as port:
        errors = [failure(lambda: produce_with_librdkafka(port, again=False))]
    for told in ("stall", "reset", 29, 10):
        with kafka(told) as broker:
            errors.append(failure(lambda broker=broker: produce_with_librdkafka(broker.port, again=False)))
            assert broker.taken == isinstance(told, str)
    for error in errors:
        assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS, error


def test_confluent_kafka_the_answer_to_a_second_batch_proves_nothing_of_the_first() -> None:
    with kafka("reset", 29) as broker:
        error = failure(lambda: produce_with_librdkafka(broker.port, again=True))
    assert broker.taken == 1
    assert classify(error).effect == "unknown"


def produce_with_aiokafka(port: int) -> object:
    aiokafka = pytest.importorskip("aiokafka")

    async def run() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=500, retry_backoff_ms=10
        )
        try:
            await producer.start()
            await producer.send_and_wait("t", b"x", partition=0)
        finally:
            await producer.stop()

    return wait_for(run)


def test_aiokafka_refused() -> None:
    with refusing_port() as port:
        error = failure(lambda: produce_with_aiokafka(port))
    assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS


def test_aiokafka_gives_no_answer() -> None:
    with kafka("stall") as broker:
        error = failure(lambda: produce_with_aiokafka(broker.port))
        assert broker.taken
    assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS


def test_aiokafka_the_answer_to_a_second_batch_proves_nothing_of_the_first() -> None:
    """Whatever the user says: it has no switch."""
    with kafka("reset", 29) as broker:
        error = failure(lambda: produce_with_aiokafka(broker.port))
    assert broker.taken == 1
    assert classify(error) is classify(error, profile=ONE) is K.AMBIGUOUS
