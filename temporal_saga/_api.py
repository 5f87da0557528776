"""The public names in one module, for the façade to import with one statement."""

import sys

# A type checker reads `from temporal_saga import errors` as the façade's name, which comes from here: a circle.
import temporal_saga.errors as errors
import temporal_saga.presets as presets
from temporal_saga._compensation import Compensation
from temporal_saga._identity import Step, business_key, current_step
from temporal_saga._outcome import Outcome, StepOutcome
from temporal_saga._parking import Parked
from temporal_saga._report import SagaReport, StepReport
from temporal_saga._saga import Saga
from temporal_saga._state import SagaState
from temporal_saga.errors import (
    CompensationError,
    Declined,
    DuplicateStep,
    Rejected,
    SagaClosed,
    SagaDeadlineExceeded,
    SagaStateTooLarge,
)

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
    "loaded",
    "presets",
]

# The package's modules so far, without the package itself: the sandbox has a package of its own in each run.
loaded = {name: module for name, module in sys.modules.items() if name.startswith("temporal_saga.")}
