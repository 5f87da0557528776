"""What goes wrong at the providers, by a seeded plan; and what makes an attempt and a workflow task short or slow."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from temporalio import activity
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

ATTEMPT = timedelta(seconds=3)
"""What an attempt has, whatever the workflow says: of a killed worker's activity nobody hears before."""

UNDOS = {
    "return_withdrawal": "withdraw",
    "reverse_deposit": "deposit",
    "void_record": "record",
    "refund": "charge",
    "release": "allocate",
    "cancel_pickup": "book_pickup",
    "void_label": "print_label",
    "recall_from_warehouse": "notify_warehouse",
}
"""The undos, and what each undoes."""

PAUSE = 0.06
"""Seconds that each workflow task and each end of an activity may be made to wait, so that a kill finds it at work."""

_NEVER_REFUSED = ("check", "validate", "send", "record_shipment")  # they have no effect, or are past the pivot
_KINDS = {"none": 62, "fails": 8, "lost": 10, "slow": 8, "late": 4, "refused": 8}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one activity of one workflow.

    Attributes:
        kind: "none"; "fails" before its effect, or is "lost" after it, for `times` attempts; "slow"; "late": its first
            attempt takes effect when it has timed out; "refused": fails for good until the operator has healed it.
        times: How many attempts it hits.
        seconds: How slow it is.
    """

    kind: str
    times: int
    seconds: float


def fault_of(seed: str, workflow_id: str, name: str) -> Fault:
    """Return the fault that the plan has for an activity of a workflow."""
    random = Random(f"{seed}/{workflow_id}/{name}")
    (kind,) = random.choices(list(_KINDS), list(_KINDS.values()))
    if kind == "refused" and name in _NEVER_REFUSED:
        kind = "none"
    return Fault(kind, random.randint(1, 3), random.uniform(0.2, 1.5))


def healed(directory: str, workflow_id: str, name: str) -> Path:
    """The file that says that the operator has healed an activity of a workflow."""
    return Path(directory) / "healed" / f"{workflow_id}.{name}"


class Faults(Interceptor):
    """Makes activities fail by the plan, and gives each attempt little time."""

    def __init__(self, setting: Any) -> None:
        self._setting = setting

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activity(next, self._setting)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Workflow


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, setting: Any) -> None:
        super().__init__(next)
        self._setting = setting

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info, setting = activity.info(), self._setting
        id = info.workflow_id or ""
        await asyncio.sleep(PAUSE if setting.pauses else 0)
        fault = fault_of(setting.seed, id, info.activity_type) if setting.faults else Fault("none", 0, 0)
        if info.activity_type in setting.refused:
            fault = Fault("refused", 0, 0)
        if fault.kind == "refused" and info.activity_type in UNDOS and not setting.undos_refused:
            fault = Fault("none", 0, 0)
        if fault.kind == "refused" and not healed(setting.directory, id, info.activity_type).exists():
            raise ApplicationError("refused for good", type="Refused", non_retryable=True)
        if fault.kind == "fails" and info.attempt <= fault.times:
            raise ConnectionError("no answer")
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if fault.kind == "late" and info.attempt == 1:
            await asyncio.sleep(ATTEMPT.total_seconds() + fault.seconds)
        result = await super().execute_activity(input)
        if fault.kind == "lost" and info.attempt <= fault.times:
            raise ConnectionResetError("the answer is lost")
        await asyncio.sleep(PAUSE if setting.pauses else 0)
        return result


class _Workflow(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Hurry(outbound))


class _Hurry(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> Any:
        policy = input.retry_policy or RetryPolicy()
        quick = timedelta(milliseconds=100)
        input.start_to_close_timeout = ATTEMPT
        input.retry_policy = replace(policy, initial_interval=quick, maximum_interval=10 * quick)
        return super().start_activity(input)


class SlowRunner(SandboxedWorkflowRunner):
    """Makes each workflow task last, so that a kill finds it at work."""

    def create_instance(self, det: Any) -> Any:
        instance: Any = super().create_instance(det)
        activate = instance.activate

        def slowly(activation: Any) -> Any:
            time.sleep(PAUSE)
            return activate(activation)

        instance.activate = slowly
        return instance
