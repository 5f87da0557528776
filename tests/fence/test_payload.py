"""The hash of a payload: it is stored, so it is frozen."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_saga.fence._payload import payload_hash


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Text(str, Enum):
    A = "a"


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str


@dataclass
class Order:
    id: UUID
    price: Money
    items: list[Money] = dataclasses.field(default_factory=list)


class Point(NamedTuple):
    x: int
    y: int


class Customer(pydantic.BaseModel):
    name: str
    born: date
    tags: dict[str, Decimal] = {}


ORDER = Order(UUID(int=7), Money(Decimal("9.90"), "EUR"), [Money(Decimal(1), "EUR")])

# Frozen: a change here would make each open step that is tried again a misuse of its key.
GOLDEN: list[tuple[object, str]] = [
    (None, "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"),
    ({"b": [1, 2.5, True, None], "a": "ä"}, "ce2e72de241b937f1041cd2d9e53ad1ebd2a5a02f534d5cf2fccb22cd5d628d5"),
    (ORDER, "5cb0889409b7db02e06c6e21b8da18ab9e87a23f0578b841d0794a28e381644b"),
    (
        [datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc), date(2026, 1, 2), time(3, 4)],
        "e497fe48d67b560216cff3ab0a725ae8a29b37dfb3bf59666841f433d280cbb6",
    ),
    ([Colour.RED, Size.LARGE, Text.A], "47532f5a1fa5ed0db6a83ae63c74d162154bfd21e09c997314be6630d9fb06a5"),
    (b"\x00\xff", "9442dbaf8e48060aa532b565d0067ca106ea6418ce10a3852f638248a1de15b9"),
    (
        Customer(name="A", born=date(2000, 1, 1), tags={"x": Decimal("1.0")}),
        "483335d4295f34efee4cfc677b2a9d30886afdb950e01f2034c3bc6c1cc734f1",
    ),
]


@pytest.mark.parametrize(("payload", "expected"), GOLDEN, ids=map(str, range(len(GOLDEN))))
def test_the_derivation_is_frozen(payload: object, expected: str) -> None:
    assert payload_hash(payload) == expected


def test_it_is_the_same_in_each_process() -> None:
    code = "from tests.fence.test_payload import ORDER, payload_hash; print(payload_hash(ORDER))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {payload_hash(ORDER)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, OrderedDict(a=1)),
        ([1, 2], (1, 2)),
        ([1, 2], Point(1, 2)),
        (Money(Decimal(1), "EUR"), {"currency": "EUR", "amount": "1"}),  # a class may be renamed
        ({Colour.RED: 1}, {"red": 1}),
        (b"ab", bytearray(b"ab")),
        (b"ab", memoryview(b"ab")),
    ],
)
def test_equal_data_have_one_hash(one: object, other: object) -> None:
    assert payload_hash(one) == payload_hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], [2, 1]),
        (1, "1"),
        (1, True),
        (None, "null"),
        (None, []),
        ([], {}),
        ("a", b"a"),
        (0.1, 0.1000001),
        (Decimal("0.1"), Decimal("0.10")),
        (Money(Decimal(1), "EUR"), Money(Decimal(1), "USD")),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc)),
        (math.nan, math.inf),
        ("\ud800", "\ud801"),
    ],
)
def test_other_data_have_another(one: object, other: object) -> None:
    assert payload_hash(one) != payload_hash(other)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (object(), "builtins.object"),
        ({1, 2}, "builtins.set"),
        (timedelta(1), "datetime.timedelta"),
        ([{"a": lambda: 1}], "builtins.function"),
        ({1: 2}, "a str, not int"),
        ({(1,): 2}, "a str, not tuple"),
        (Money, "the class Money"),
        (Customer, "the class Customer"),
    ],
)
def test_what_cannot_be_told_is_refused(payload: object, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        payload_hash(payload)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, json_values)
def test_of_json_no_two_values_share_one(one: Any, other: Any) -> None:
    assert (payload_hash(one) == payload_hash(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: Any) -> str:
    """Return what tells JSON values apart, dicts in the order of their keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{repr_of(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_of, value)) + "]"
    return repr(value)
