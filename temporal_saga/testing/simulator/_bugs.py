"""A bug that a plan simulates: a TypeError that an `await` of the workflow raises, until the task is tried again."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

from temporalio import converter
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.activity_result import ActivityResolution

_TYPE = "temporal_saga.testing.bug"


def bug_resolution() -> ActivityResolution:
    """Return the resolution that makes the `await` of an activity raise TypeError."""
    resolution = ActivityResolution()
    resolution.failed.failure.message = "simulated bug"
    resolution.failed.failure.application_failure_info.type = _TYPE
    return resolution


def with_bugs(data_converter: converter.DataConverter) -> converter.DataConverter:
    """Return a converter that takes the failure of a bug for the error that the bug would raise."""
    base: Any = data_converter.failure_converter_class
    return dataclasses.replace(data_converter, failure_converter_class=_with_bugs(base))


@lru_cache(maxsize=64)
def _with_bugs(base: Any) -> type[converter.FailureConverter]:
    class WithBugs(base):  # type: ignore[misc]
        def from_failure(self, failure: Failure, payload_converter: converter.PayloadConverter) -> BaseException:
            if failure.application_failure_info.type == _TYPE:
                return TypeError("simulated bug")
            above: Any = super()
            error: BaseException = above.from_failure(failure, payload_converter)
            return error

    return WithBugs
