# pyright: reportPrivateUsage=false
"""What is on its way to a run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivationJob


@dataclasses.dataclass(eq=False)
class Job:
    """Something that happened to a run, on its way into an activation."""

    proto: WorkflowActivationJob
    events: int = 1
    kind: str = ""
    label: str = ""
    numbered: Callable[[int], None] | None = None
    delivered: Callable[[], None] | None = None
    dropped: Callable[[], None] | None = None
    instead: WorkflowActivationJob | None = None
    """What is delivered once the workflow task that this one fails has failed."""
    revoked: bool = False

    @property
    def is_message(self) -> bool:
        """Whether this came from outside."""
        return self.kind in ("signal", "update", "cancel")


@dataclasses.dataclass(eq=False)
class Update:
    """An update on its way through a workflow."""

    accepted: asyncio.Future[None]
    completed: asyncio.Future[Payload | Failure]
