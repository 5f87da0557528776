"""Each library of the table, and what was seen of it: the list of tests is complete, and each of them exists.

Every library is refused a connection, waits too long for an answer, is reset, gets the errors that it maps, and sends
a second request by itself after a first one that had its effect. None of them may say "no effect" then. What a library
does not have is listed with the fact that says why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from temporal_saga.classification._libraries import LIBRARIES, Library, Repeats

KINDS = ("refused", "late", "reset", "errors", "again")


@dataclass(frozen=True)
class Never:
    """A kind that a library does not have, and the fact that says why."""

    why: str


ONE = Never("it sends one request per call")
NO_NETWORK = Never("it has no network")
OF_THE_DRIVER = Never("its errors of a statement are those of psycopg")
NO_TIMEOUT = Never("it waits for an answer as long as it takes: the timeouts are the server's")

Row = tuple[str | Never, str | Never, str | Never, str | Never, str | Never]


def _sdk(name: str) -> Row:
    answer, again = (
        "test_a_request_that_gets_no_answer",
        "test_the_answer_to_a_second_request_proves_nothing_of_the_first",
    )
    return (
        f"test_sdks.test_a_refused_connection[{name}]",
        f"test_sdks.{answer}[stall, {name}]",
        f"test_sdks.{answer}[reset, {name}]",
        f"test_sdks.test_statuses[{name}]",
        f"test_sdks.{again}[{name}]",
    )


def _http(name: str, errors: str | Never, again: str) -> Row:
    return (
        f"test_http.test_a_refused_connection[{name}]",
        f"test_http.test_what_was_sent_and_not_answered[stall, {name}]",
        f"test_http.test_what_was_sent_and_not_answered[reset, {name}]",
        errors,
        f"test_http.{again}",
    )


def _broker(name: str, late: str, reset: str) -> tuple[str, str, str]:
    return f"test_brokers.test_{name}_refused", f"test_brokers.{late}", f"test_brokers.{reset}"


_LOST = "test_postgres.test_an_insert_whose_answer_does_not_arrive"
_BY_STATUS = "test_http.test_statuses"
_REDIRECTED = "test_an_answer_after_a_redirect_proves_nothing_of_the_first_request"

MATRIX: Mapping[str, Row] = {
    "builtins": (
        "test_http.test_a_refused_connection[http.client]",
        "test_http.test_what_was_sent_and_not_answered[stall, http.client]",
        "test_http.test_what_was_sent_and_not_answered[reset, http.client]",
        "test_rules.test_pythons_own",
        ONE,
    ),
    "urllib.error": _http("urllib", f"{_BY_STATUS}[urllib]", "test_an_answer_after_a_redirect_of_urllibs_own"),
    "smtplib": (
        "test_mail_and_ssh.test_mail_refused_and_stalled[smtplib]",
        "test_mail_and_ssh.test_mail[END late]",
        "test_mail_and_ssh.test_mail[END reset]",
        "test_mail_and_ssh.test_mail[END 552 too large]",
        ONE,
    ),
    "httpx": _http("httpx", f"{_BY_STATUS}[httpx]", f"{_REDIRECTED}[httpx]"),
    "requests": _http("requests", f"{_BY_STATUS}[requests]", "test_the_retries_that_requests_is_told_to_make"),
    "urllib3": _http(
        "urllib3", Never("it raises nothing for a status"), "test_a_try_that_is_refused_after_one_that_was_sent"
    ),
    "aiohttp": _http("aiohttp", f"{_BY_STATUS}[aiohttp]", "test_a_put_that_aiohttp_sends_again_and_cannot"),
    "grpc": (
        "test_grpc.test_a_refused_connection_cannot_be_told_from_one_that_the_server_tells_of",
        "test_grpc.test_a_deadline",
        "test_grpc.test_a_stream_that_is_reset_after_the_request",
        "test_grpc.test_codes",
        "test_grpc.test_a_retry_policy_does_not_show_and_the_user_has_to_say_it",
    ),
    "grpclib": (
        "test_mail_and_ssh.test_grpclib_refused",
        "test_mail_and_ssh.test_grpclib_gets_no_answer[late]",
        "test_mail_and_ssh.test_grpclib_gets_no_answer[reset]",
        "test_mail_and_ssh.test_grpclib",
        ONE,
    ),
    "temporalio": (
        "test_grpc.test_temporals_own_client_refused",
        "test_grpc.test_temporals_own_client_gets_no_answer[stall]",
        "test_grpc.test_temporals_own_client_gets_no_answer[reset]",
        "test_grpc.test_codes_of_temporals_own_client",
        "test_grpc.test_a_second_try_of_temporals_own_client",
    ),
    "google.api_core": (
        "test_grpc.test_googles_get_no_answer",
        "test_grpc.test_googles_get_no_answer",
        "test_sdks.test_a_request_that_gets_no_answer[reset, google]",
        "test_grpc.test_googles_codes",
        "test_grpc.test_a_second_try_of_googles_own",
    ),
    "google.auth": (
        "test_sdks.test_google_auth",
        "test_sdks.test_google_auth",
        "test_sdks.test_google_auth",
        "test_sdks.test_google_auth",
        "test_sdks.test_google_auth_that_fails_after_a_request_that_had_its_effect",
    ),
    "google.genai": _sdk("genai"),
    "botocore": (
        "test_aws.test_a_refused_connection",
        "test_aws.test_what_was_sent_and_not_answered[stall]",
        "test_aws.test_what_was_sent_and_not_answered[reset]",
        "test_aws.test_codes",
        "test_aws.test_a_definite_answer_to_a_second_try_of_botocores_own_is_not_definite",
    ),
    "azure": _sdk("azure"),
    "psycopg": (
        "test_postgres.test_a_refused_connection",
        NO_TIMEOUT,
        f"{_LOST}[psycopg]",
        "test_postgres.test_states",
        ONE,
    ),
    "psycopg2": (
        "test_sql_wrappers.test_psycopg2_says_by_its_text_that_it_was_connecting",
        NO_TIMEOUT,
        f"{_LOST}[psycopg2]",
        "test_batches.test_executemany_of_psycopg2",
        ONE,
    ),
    "psycopg_pool": (
        "test_postgres.test_a_pool_that_cannot_connect",
        "test_postgres.test_a_pool_without_a_free_connection",
        f"{_LOST}[psycopg_pool]",
        OF_THE_DRIVER,
        ONE,
    ),
    "asyncpg": (
        "test_sql_wrappers.test_asyncpg",
        f"{_LOST}[asyncpg]",
        f"{_LOST}[asyncpg]",
        "test_batches.test_executemany_of_asyncpg_is_one_transaction",
        ONE,
    ),
    "sqlite3": ("test_sqlite.test_no_such_file", NO_NETWORK, NO_NETWORK, "test_sqlite.test_constraints", ONE),
    "mysql": (
        "test_mysql_and_oracle.test_mysql_refused",
        "test_mysql_and_oracle.test_mysql_gives_no_answer[stall]",
        "test_mysql_and_oracle.test_mysql_gives_no_answer[reset]",
        "test_mysql_and_oracle.test_mysql_errors",
        ONE,
    ),
    "oracledb": (
        "test_mysql_and_oracle.test_oracle_refused",
        "test_mysql_and_oracle.test_oracle_gives_no_answer[stall]",
        "test_mysql_and_oracle.test_oracle_gives_no_answer[reset]",
        "test_mysql_and_oracle.test_oracle_errors",
        ONE,
    ),
    "sqlalchemy": (
        "test_postgres.test_sqlalchemy_a_refused_connection",
        Never("its only timeout is that of its pool"),
        f"{_LOST}[sqlalchemy]",
        "test_postgres.test_sqlalchemy_unique",
        ONE,
    ),
    "django.db.utils": (
        "test_sql_wrappers.test_django_over_psycopg2",
        NO_TIMEOUT,
        f"{_LOST}[django]",
        "test_sql_wrappers.test_django_wraps_the_error_of_one_statement",
        ONE,
    ),
    "pymongo": (
        "test_other_databases.test_mongo_refused",
        "test_other_databases.test_mongo_gives_no_answer[late]",
        "test_other_databases.test_mongo_gives_no_answer[lost]",
        "test_other_databases.test_mongo[duplicate-key]",
        "test_other_databases.test_mongo_an_answer_to_a_retryable_write_that_was_sent_before",
    ),
    "redis": (
        "test_other_databases.test_redis_refused_and_stalled",
        "test_other_databases.test_redis_gives_no_answer[late, redis]",
        "test_other_databases.test_redis_gives_no_answer[reset, redis]",
        "test_other_databases.test_redis[readonly]",
        "test_other_databases.test_redis_a_refusal_of_a_second_try[redis]",
    ),
    "valkey": (
        "test_other_databases.test_valkey_refused_and_stalled",
        "test_other_databases.test_redis_gives_no_answer[late, valkey]",
        "test_other_databases.test_redis_gives_no_answer[reset, valkey]",
        "test_other_databases.test_valkey[readonly]",
        "test_other_databases.test_redis_a_refusal_of_a_second_try[valkey]",
    ),
    "elasticsearch": _sdk("elasticsearch"),
    "opensearchpy": _sdk("opensearch"),
    "stripe": _sdk("stripe"),
    "Adyen": _sdk("adyen"),
    "square": _sdk("square"),
    "braintree": _sdk("braintree"),
    "twilio": _sdk("twilio_delete"),
    "openai": _sdk("openai"),
    "anthropic": _sdk("anthropic"),
    "hvac": _sdk("hvac"),
    "kubernetes": _sdk("kubernetes"),
    "zeep": _sdk("zeep"),
    "paramiko": (
        "test_mail_and_ssh.test_paramiko_refused",
        "test_mail_and_ssh.test_paramiko_gets_no_answer[late]",
        "test_mail_and_ssh.test_paramiko_gets_no_answer[reset]",
        "test_mail_and_ssh.test_paramiko_a_command_that_the_server_does_not_take",
        ONE,
    ),
    "pika": (*_broker("pika", "test_pika[stall]", "test_pika[reset]"), "test_brokers.test_pika[unroutable]", ONE),
    "nats": (*_broker("nats", "test_nats[silent]", "test_nats[reset]"), "test_brokers.test_nats[400]", ONE),
    "kafka": (
        *_broker("kafka", "test_kafka_gives_no_answer[stall]", "test_kafka_gives_no_answer[reset]"),
        "test_brokers.test_kafka_errors",
        "test_brokers.test_kafka_the_answer_to_a_second_batch_proves_nothing_of_the_first",
    ),
    "aiokafka": (
        "test_brokers.test_aiokafka_refused",
        "test_brokers.test_aiokafka_gives_no_answer",
        "test_brokers.test_aiokafka_the_answer_to_a_second_batch_proves_nothing_of_the_first",
        "test_brokers.test_aiokafka_the_answer_to_a_second_batch_proves_nothing_of_the_first",
        "test_brokers.test_aiokafka_the_answer_to_a_second_batch_proves_nothing_of_the_first",
    ),
    "confluent_kafka": (
        *("test_brokers.test_confluent_kafka",) * 4,
        "test_brokers.test_confluent_kafka_the_answer_to_a_second_batch_proves_nothing_of_the_first",
    ),
    "tenacity": (*(Never("it sends nothing by itself"),) * 4, "test_http.test_what_tries_again_around_a_client"),
}
"""By the first package of a library's row."""


def test_each_library_of_the_table_is_in_the_matrix() -> None:
    assert [*MATRIX] == [library.packages.split()[0] for library in LIBRARIES]


def _named(library: Library) -> Row:
    return MATRIX[library.packages.split()[0]]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.packages.split()[0])
def test_each_library_has_a_test_of_each_kind(library: Library) -> None:
    if not any(map(_is_installed, library.packages.split())):
        pytest.skip("not installed")
    for kind, reference in zip(KINDS, _named(library), strict=True):
        if isinstance(reference, str):
            name, _, parameters = reference.partition("[")
            module, function = name.split(".", 1)
            found = getattr(importlib.import_module(f"tests.libraries.{module}"), function, None)
            assert inspect.isfunction(found), (kind, reference)
            known = [*_ids(found)]
            for each in filter(None, parameters.rstrip("]").split(", ")):
                assert any(each == id or each in id.split("-") for id in known), (kind, reference)


def test_a_library_that_sends_again_is_seen_to_do_it() -> None:
    for library in LIBRARIES:
        *_, again = _named(library)
        assert (again is ONE) == (library.repeats is Repeats.NO), library.packages


def _is_installed(package: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # of its parent
        return importlib.util.find_spec(package) is not None
    return False


def _ids(function: Any) -> Iterator[str]:
    """Yield the names of a test's parameters, as pytest forms them from texts."""
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize":
            values, ids = [*mark.args[1]], mark.kwargs.get("ids")
            if ids is None or callable(ids):
                for value in values:
                    parts = value if isinstance(value, tuple) else (value,)
                    yield "-".join(str(ids(each) if callable(ids) else each) for each in parts)
            else:
                yield from map(str, ids)
