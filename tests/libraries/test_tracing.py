"""The SDK's own OpenTelemetry interceptor, beside the plugin, as docs/operations.md describes it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.testing import WorkflowEnvironment

from temporal_saga.plugin import SagaPlugin
from tests.server.parking_workflows import ACTIVITIES, WORKFLOWS, Case, Parks
from tests.server.support import make_worker, passing


async def test_each_activity_has_a_span_with_its_key(env: WorkflowEnvironment) -> None:
    """Undos included; and all spans of a run are one trace."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    config = env.client.config()
    config["plugins"], config["interceptors"] = [SagaPlugin()], [TracingInterceptor(provider.get_tracer("test"))]
    client, queue, id = Client(**config), str(uuid4()), str(uuid4())
    async with make_worker(
        client, queue, workflows=WORKFLOWS, activities=ACTIVITIES, workflow_runner=passing(WORKFLOWS)
    ):
        with pytest.raises(WorkflowFailureError):
            await client.execute_workflow(Parks.run, Case(id, "undo"), id=id, task_queue=queue)
    ran = [span for span in spans.get_finished_spans() if span.name.startswith("RunActivity:")]
    found = [(span.name, str((span.attributes or {})["temporalActivityID"])) for span in ran]
    key = found[1][1].rpartition(":")[2]
    assert [name for name, _ in found] == [f"RunActivity:{name}" for name in ("reserve", "charge", "refund", "release")]
    assert [id for _, id in found][1:3] == [f"charge:do:{key}", f"charge:undo:{key}"]
    assert len({span.context.trace_id for span in spans.get_finished_spans() if span.context}) == 1
