"""What activities leave: the mark of a failure, and the record of the fence."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from typing import Any

from temporalio import activity
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from temporal_saga import errors, fence
from temporal_saga.classification import classify_errors
from temporal_saga.errors import ActivityFailure
from temporal_saga.testing import step_environment

KEY = "cf79ab41-35b3-52e0-9e35-1b2a3d4c5d6e"

_ERRORS = sorted(
    name
    for name in errors.__all__
    if isinstance(each := getattr(errors, name), type) and issubclass(each, ActivityFailure) and hasattr(each, "kind")
)
_MARK = {"temporal_saga": {"v": 1, "definite_through": 2}}

FAILURES: list[dict[str, Any]] = [{"error": name, "attempt": 1, "heartbeat": []} for name in _ERRORS] + [
    {"error": name, "attempt": 3, "heartbeat": heartbeat}
    for name in ("Declined", "Throttled")
    for heartbeat in ([], [_MARK], [{"temporal_saga": {"v": 1, "definite_through": 1}}], ["row 7"], ["row 7", _MARK])
]


def failure(given: Any, _: Any) -> Any:
    """Return the failure of an activity that raises one of the library's errors, and what it heartbeats."""
    sent: list[Any] = []

    @activity.defn
    @classify_errors
    def fail() -> None:
        raise getattr(errors, given["error"])("no", "a detail of the user's")

    environment = step_environment("charge", key=KEY, attempt=given["attempt"])
    environment.info = dataclasses.replace(environment.info, heartbeat_details=given["heartbeat"])
    environment.on_heartbeat = lambda *details: sent.append(list(details))
    try:
        environment.run(fail)
    except ApplicationError as error:
        failure = Failure()
        converter = DataConverter.default
        converter.failure_converter.to_failure(error, converter.payload_converter, failure)
        info = failure.application_failure_info
        return {
            "message": failure.message,
            "type": info.type,
            "non_retryable": info.non_retryable,
            "category": ApplicationErrorCategory(info.category).name,
            "details": converter.payload_converter.from_payloads(info.details.payloads),
            "heartbeats": sent,
        }
    raise AssertionError("the activity did not fail")


# --- the fence ---

PAYLOADS: list[Any] = [
    None,
    "o-1",
    7,
    {"b": [1, 2.5, True, None], "a": "ä"},
    {"order": "o-1", "lines": [{"item": "apple", "count": 2}]},
]

_HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"  # of null
_OTHER = "0" * 64
_NEVER = {"payload": None, "result": None, "undo_payload": None, "undo_result": None}
_APPLIED = {**_NEVER, "state": "applied", "payload": _HASH, "result": '"first"'}
_ROWS: list[Any] = [
    None,
    _APPLIED,
    {**_APPLIED, "payload": _OTHER},
    {**_APPLIED, "result": None},
    {**_APPLIED, "state": "undone", "undo_payload": _HASH, "undo_result": '"back"'},
    {**_APPLIED, "state": "undone", "undo_payload": _OTHER, "undo_result": None},
    {**_NEVER, "state": "undone", "undo_payload": _HASH, "undo_result": '"back"'},
    {**_NEVER, "state": "fenced", "undo_payload": _HASH},
    {**_APPLIED, "state": "applying", "result": None},
    {**_APPLIED, "state": "undoing", "undo_payload": _HASH},
]

RECORDS: list[dict[str, Any]] = [
    {"record": row, "call": call} for row in _ROWS for call in ("step", "undo", "undo with guard=False")
] + [{"record": None, "call": call} for call in ("push", "key=refund-1")]


def hashed(given: Any, _: Any) -> Any:
    """Return the hash of a payload, as the fence's record has it."""
    return record({"record": None, "call": "step"}, None, payload=given)["record"]["payload"]


def record(given: Any, _: Any, *, payload: Any = None) -> Any:
    """Return what a call of the fence does with a record, and the record that it leaves."""
    ran: list[str] = []
    call: str = given["call"]
    by_key = call.removeprefix("key=") if call.startswith("key=") else None
    key = KEY if by_key is None else f"key:{by_key}"
    phase: Any = {"step": "do", "push": "push"}.get(call, "undo" if by_key is None else "do")

    def effect() -> str:
        ran.append(call)
        return "this one's"

    with closing(sqlite3.connect(":memory:")) as connection:
        fence.create_table(connection)
        if given["record"] is not None:
            row = {"key": key, "claim": "another attempt's", **given["record"]}
            names = ", ".join(row)
            places = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO temporal_saga_fence ({names}) VALUES ({places})", list(row.values()))
        connection.commit()

        def call_fence() -> Any:
            return fence.once(connection, effect, payload=payload, guard="guard=False" not in call, key=by_key)

        came: dict[str, Any] = {}
        try:
            came["returned"] = step_environment("charge", phase=phase, key=KEY).run(call_fence)
        except ApplicationError as error:
            came["raised"] = error.type
        columns = "state, payload, result, undo_payload, undo_result"
        left = connection.execute(f"SELECT key, {columns} FROM temporal_saga_fence").fetchall()
        rows = [dict(zip(["key", *columns.split(", ")], row, strict=True)) for row in left]
    return {**came, "effect_ran": bool(ran), "record": rows[0] if rows else None}
