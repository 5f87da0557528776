"""Each broken copy of the library makes a test of its rule fail: the tests can tell right from wrong."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest

import temporal_saga
from tests.mutants import Mutant, Nursery, Result, all_mutants

pytestmark = pytest.mark.slow

MUTANTS = all_mutants()

Outcomes = dict[str, "Future[Result]"]


@pytest.fixture(scope="module")
def nurseries() -> Iterator[Queue[Nursery]]:
    """Two of them, idle."""
    idle: Queue[Nursery] = Queue()
    made = [Nursery(), Nursery()]
    for nursery in made:
        idle.put(nursery)
    yield idle
    for nursery in made:
        nursery.close()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, nurseries: Queue[Nursery]
) -> Iterator[Outcomes]:
    """Run the mutants that were asked for, two at a time."""
    asked: list[Mutant] = [
        item.callspec.params["mutant"]  # type: ignore[misc]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and "mutant" in item.fixturenames
    ]

    def run(mutant: Mutant) -> Result:
        nursery = nurseries.get()
        try:
            return nursery.run(tmp_path_factory.mktemp(mutant.name), mutant.tests, mutant)
        finally:
            nurseries.put(nursery)

    with ThreadPoolExecutor(2) as executor:
        yield {mutant.name: executor.submit(run, mutant) for mutant in asked}


def test_each_mutant_is_still_one() -> None:
    """Its old lines are in the library, once, and the tests that it names exist."""
    package = Path(temporal_saga.__file__).parent
    for mutant in MUTANTS:
        source = (package / mutant.file).read_text(encoding="utf-8")
        assert mutant.applied_to(source) != source
        for test in mutant.tests:
            file, _, function = test.partition("::")
            path = Path(__file__).parent / ("" if "/" in file else "rules") / file
            assert f"def {function.partition('[')[0]}(" in path.read_text(encoding="utf-8"), (mutant.name, test)


@pytest.mark.deep
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught(mutant: Mutant, outcomes: Outcomes) -> None:
    result = outcomes[mutant.name].result()
    assert result.code == 1, result.output  # tests failed; not: an error in collection
    assert result.failed == {test.rpartition("/")[2].partition("[")[0] for test in mutant.tests}, result.output


@pytest.mark.timeout(300)
@pytest.mark.parametrize("every_test", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_the_copy_that_is_not_broken_passes(tmp_path: Path, nurseries: Queue[Nursery], every_test: bool) -> None:
    """Else the mutants would prove nothing. One test of each file shows what this place changes for them."""
    tests = sorted({test for mutant in MUTANTS for test in mutant.tests})
    one_of_each_file = {test.partition("::")[0]: test for test in tests}
    result = nurseries.get().run(tmp_path, tests if every_test else list(one_of_each_file.values()))
    assert result.code == 0, result.output


def test_there_is_a_mutant_of_each_rule() -> None:
    rules = {mutant.rule.split(":")[0] for mutant in MUTANTS}
    assert {f"Rule {number}" for number in range(1, 13)} <= rules
