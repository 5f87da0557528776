"""What a run's events, clients and metrics show of a saga, by name."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cache
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.exceptions import ApplicationError
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from temporal_saga.cli._commands import cli
from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, completed, failed, update
from tests.rules.workflows import REFUSED, do, end, flow, new_saga
from tests.vectors.keys import ANCHOR

_NONE = {"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}

DETAILS: list[dict[str, Any]] = [
    {"type": "Declined", "details": [_NONE]},
    {"type": "AnyName", "details": ["the user's", _NONE]},
    {"type": "Declined", "details": []},
    {"type": "Declined", "details": [_NONE, "the user's"]},
    {"type": "Declined", "details": [{"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "unknown"}}]},
    {"type": "Declined", "details": [{**_NONE, "more": 1}]},
    {"type": "Declined", "details": [{"temporal_saga": {**_NONE["temporal_saga"], "more": 1}}]},
    {"type": "Declined", "details": [{"temporal_saga": {"v": 1, "definite_through": 1}}]},
]


@flow
async def one_step() -> None:
    async with new_saga() as saga:
        await do(saga, "charge")


def outcome(given: Any, _: Any) -> Any:
    """Return the outcome of a step whose activity failed so."""
    error = ApplicationError("no", *given["details"], type=given["type"], non_retryable=True)
    run = Run(one_step).start()
    run.activate(failed("charge", error))
    return run.query("saga_report")[0]["steps"][0]["state"]


SHOWN = [
    "memo",
    "search attribute",
    "search attribute that temporal-saga looks for",
    "patches",
    "query saga_report",
    "argument of park_reminder",
    "update saga_resolve",
    "metrics",
    "how it ends",
]


@flow
async def order() -> None:
    async with new_saga("order", on_compensation_failure="park", park_reminder=("remind", timedelta(hours=1))) as saga:
        await do(saga, "reserve")
        await do(saga, "charge")
        raise REFUSED


@flow
async def good() -> None:
    async with new_saga("order"):
        pass


def shown(given: Any, _: Any) -> Any:
    """Return what is shown under that name."""
    return _all()[given]


@cache
def _all() -> dict[str, Any]:
    metrics = MetricBuffer(1000)
    meter = Runtime(telemetry=TelemetryConfig(metrics=metrics)).metric_meter
    options: dict[str, Any] = {"plugins": [SagaPlugin(search_attribute="SagaState")], "metric_meter": meter}
    Run(good, **options).autopilot({})
    Run(order, **options).autopilot({"undo": None})
    run = Run(order, run_id=ANCHOR, **options).start()
    run.activate(completed("reserve"))
    run.activate(completed("charge"))
    run.activate(failed("undo_charge", REFUSED))
    found: dict[str, Any] = {
        "query saga_report": run.query("saga_report"),
        "argument of park_reminder": run.activity("remind").args,
    }
    charge, reserve = (run.query("saga_report")[0]["steps"][at]["key"] for at in (1, 0))
    found["update saga_resolve"] = [
        resolve(run, charge, "forget"),
        resolve(run, reserve, "retry"),  # is not parked
        resolve(run, charge, "done_by_hand"),
    ]
    run.activate(failed("undo_reserve", REFUSED))
    found["update saga_resolve"] += [resolve(run, reserve, "retry")]
    run.activate(failed("undo_reserve", REFUSED))
    found["update saga_resolve"] += [resolve(run, reserve, "give_up")]
    protos = [command for activation in run.activations for command in activation.protos]
    found["memo"] = [
        {name: _json(payload) for name, payload in each.modify_workflow_properties.upserted_memo.fields.items()}
        for each in protos
        if each.HasField("modify_workflow_properties")
    ]
    found["search attribute that temporal-saga looks for"] = next(
        option.default for option in cli.commands["list"].params if option.name == "search_attribute"
    )
    found["patches"] = sorted({each.set_patch_marker.patch_id for each in protos if each.HasField("set_patch_marker")})
    found["search attribute"] = [
        {
            name: _json(payload)
            for name, payload in each.upsert_workflow_search_attributes.search_attributes.indexed_fields.items()
        }
        for each in protos
        if each.HasField("upsert_workflow_search_attributes")
    ]
    found["how it ends"] = {"type": end(run), "details": list(run.error.details)}
    found["metrics"] = _metrics(metrics)
    return found


def resolve(run: Run, *decision: str) -> Any:
    """Send a decision; return what was sent, and the answers."""
    sent = [*decision, "ann", "because"]
    answers = [command for command in run.activate(update("saga_resolve", *sent)) if command[0].startswith("update")]
    return {
        "arguments": sent,
        "answers": [[name, *(getattr(each, "type", each) for each in values)] for name, _, *values in answers],
    }


def _json(payload: Payload) -> Any:
    return json.loads(payload.data) if payload.data else None


_LABELS_OF_THE_SDK = ("namespace", "service_name", "task_queue", "workflow_type")


def _metrics(buffer: MetricBuffer) -> Any:
    kinds = {0: "counter", 1: "gauge", 2: "histogram"}
    found: dict[str, Any] = {}
    for recorded in buffer.retrieve_updates():
        metric = recorded.metric
        labels = {name: value for name, value in recorded.attributes.items() if name not in _LABELS_OF_THE_SDK}
        each = found.setdefault(metric.name, {"kind": kinds[metric.kind], "unit": metric.unit, "labels": []})
        if labels not in each["labels"]:
            each["labels"].append(labels)
    return dict(sorted(found.items()))
