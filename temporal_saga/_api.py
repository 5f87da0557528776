"""The public names in one module, which the façade imports with one statement. A name `as` itself is public."""

import sys as _sys

# Not `from temporal_saga import errors`: a type checker takes that for the façade's name, which comes from here.
import temporal_saga.errors
import temporal_saga.presets
from temporal_saga._identity import Step as Step
from temporal_saga._identity import business_key as business_key
from temporal_saga._identity import current_step as current_step
from temporal_saga._outcome import Outcome as Outcome
from temporal_saga._outcome import StepOutcome as StepOutcome
from temporal_saga._parking import Parked as Parked
from temporal_saga._report import SagaReport as SagaReport
from temporal_saga._report import StepReport as StepReport
from temporal_saga._saga import Saga as Saga
from temporal_saga._state import SagaState as SagaState
from temporal_saga._surface import Compensation as Compensation
from temporal_saga.errors import CompensationError as CompensationError
from temporal_saga.errors import Declined as Declined
from temporal_saga.errors import DuplicateStep as DuplicateStep
from temporal_saga.errors import Rejected as Rejected
from temporal_saga.errors import SagaClosed as SagaClosed
from temporal_saga.errors import SagaDeadlineExceeded as SagaDeadlineExceeded
from temporal_saga.errors import SagaStateTooLarge as SagaStateTooLarge

errors = temporal_saga.errors
presets = temporal_saga.presets

# The modules imported so far, without the package itself: the sandbox imports the package again in each run.
loaded = {name: module for name, module in _sys.modules.items() if name.startswith("temporal_saga.")}
