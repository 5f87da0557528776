"""Small workflows as people write them: some correct, some with one realistic bug each.

They were written from the documentation alone, and say what a user expects of the testing kit.
`tests/kit/test_corpus.py` explores each of them. Most buggy ones differ from a correct one
next to them by their bug alone.
"""

from collections.abc import Sequence

from tests.kit.corpus import bank, batches, cancels, children, entities, fenced, onboarding, orders, trips
from tests.kit.corpus.case import Buggy, Correct

_MODULES = (bank, batches, cancels, children, entities, fenced, onboarding, orders, trips)

BUGGY: Sequence[Buggy] = [case for module in _MODULES for case in module.BUGGY]
CORRECT: Sequence[Correct] = [case for module in _MODULES for case in module.CORRECT]

__all__ = ["BUGGY", "CORRECT"]
