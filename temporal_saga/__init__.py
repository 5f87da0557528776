"""Sagas and compensation for Temporal workflows.

    async with Saga(activity_options=presets.standard()) as saga:
        await saga.execute_activity(withdraw, transfer, compensation=return_withdrawal)
        await saga.execute_activity(deposit, transfer, compensation=reverse_deposit)

PYTEST_DONT_REWRITE
"""

# PYTEST_DONT_REWRITE is for pytest. Pytest rewrites the asserts of a package that has a pytest plugin, as this one has,
# and a rewritten module imports pytest. The sandbox executes this module in each run, so each run would import pytest.

import sys

from temporalio import workflow

# One module in one statement: each import that passes through costs time in each run, and
# `from temporal_saga import errors` here would not pass through at all.
with workflow.unsafe.imports_passed_through():
    from temporal_saga._api import (
        Compensation,
        CompensationError,
        Declined,
        DuplicateStep,
        Outcome,
        Parked,
        Rejected,
        Saga,
        SagaClosed,
        SagaDeadlineExceeded,
        SagaReport,
        SagaState,
        SagaStateTooLarge,
        Step,
        StepOutcome,
        StepReport,
        business_key,
        current_step,
        errors,
        loaded,
        presets,
    )

# The sandbox imports again each module that it has not seen. Without this line, `from temporal_saga.errors import
# Declined` in a workflow would give a class that is not the library's.
sys.modules.update(loaded)
del loaded

__all__ = [
    "Compensation",
    "CompensationError",
    "Declined",
    "DuplicateStep",
    "Outcome",
    "Parked",
    "Rejected",
    "Saga",
    "SagaClosed",
    "SagaDeadlineExceeded",
    "SagaReport",
    "SagaState",
    "SagaStateTooLarge",
    "Step",
    "StepOutcome",
    "StepReport",
    "business_key",
    "current_step",
    "errors",
    "presets",
]
