"""A data converter's work without `await`, and what else travels as payloads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from temporalio import activity, common, converter
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.failure.v1 import Failure

from ._clock import new_loop

_PROBE = converter.WorkflowSerializationContext(namespace="default", workflow_id="probe")


class Converter:
    """A data converter without `await`: a payload codec, if there is one, runs to its end at once."""

    def __init__(self, data_converter: converter.DataConverter) -> None:
        self.data = data_converter
        self.has_codec: bool = data_converter.payload_codec is not None
        self._is_default = data_converter is converter.DataConverter.default
        self._knows_contexts = not self._is_default and data_converter.with_context(_PROBE) is not data_converter

    def of_workflow(self, workflow_id: str) -> Converter:
        """Return the converter for what belongs to a workflow."""
        if not self._knows_contexts:
            return self
        context = converter.WorkflowSerializationContext(namespace="default", workflow_id=workflow_id)
        return Converter(self.data.with_context(context))

    def of_activity(self, tell: Callable[[], activity.Info]) -> Converter:
        """Return the converter for what belongs to an activity."""
        if not self._knows_contexts:
            return self
        info = tell()
        context = converter.ActivitySerializationContext(
            namespace="default",
            workflow_id=info.workflow_id,
            workflow_type=info.workflow_type,
            activity_type=info.activity_type,
            activity_id=info.activity_id,
            activity_task_queue=info.task_queue,
            is_local=False,
        )
        return Converter(self.data.with_context(context))

    def encode(self, values: Sequence[Any]) -> Sequence[Payload]:
        """Return the values as payloads."""
        if self.has_codec:
            encoded: list[Payload] = complete(self.data.encode(values))
            return encoded
        return self.data.payload_converter.to_payloads(values)

    def encode_result(self, value: Any) -> Payload:
        """Return what an activity has returned as a payload, which nobody may change: others may have the same one."""
        # An exploration runs the same activities thousands of times.
        if self._is_default and (value is None or (type(value) in _PLAIN and len(str(value)) <= _SHORT)):
            return _encoded(value)
        (payload,) = self.encode([value])
        return payload

    def decode(self, payloads: Sequence[Payload], types: list[Any] | None = None) -> list[Any]:
        """Return the values behind payloads; the types count only if there are as many."""
        if types is not None and len(types) != len(payloads):
            types = None
        if not payloads:
            return []
        if self.has_codec:
            decoded: list[Any] = complete(self.data.decode(payloads, types))
            return decoded
        return self.data.payload_converter.from_payloads(payloads, types)

    def to_failure(self, error: BaseException) -> Failure:
        """Return the error as it travels."""
        failure = Failure()
        if self.has_codec:
            complete(self.data.encode_failure(error, failure))
        else:
            self.data.failure_converter.to_failure(error, self.data.payload_converter, failure)
        return failure

    def to_exception(self, failure: Failure) -> BaseException:
        """Return the error that comes out at the other end."""
        if self.has_codec:
            copy = Failure()
            copy.CopyFrom(failure)
            error: BaseException = complete(self.data.decode_failure(copy))
            return error
        return self.data.failure_converter.from_failure(failure, self.data.payload_converter)

    def decoded(self, payloads: Mapping[str, Payload]) -> dict[str, Payload]:
        """Return payloads as they are before a codec encodes them."""
        codec: Any = self.data.payload_codec
        if codec is None:
            return dict(payloads)
        return {key: complete(codec.decode([payload]))[0] for key, payload in payloads.items()}

    def plain(self, payloads: Sequence[Payload]) -> list[Any]:
        """Return the values behind payloads that no codec has encoded."""
        return self.data.payload_converter.from_payloads(payloads)

    def plain_exception(self, failure: Failure) -> BaseException:
        """Return the error behind a failure that no codec has encoded."""
        return self.data.failure_converter.from_failure(failure, self.data.payload_converter)


_PLAIN = frozenset({bool, int, str})
_SHORT = 100


@lru_cache(maxsize=1024, typed=True)
def _encoded(value: bool | int | str | None) -> Payload:
    return converter.DataConverter.default.payload_converter.to_payload(value)


def complete(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end at once, on an event loop of its own."""
    return new_loop().run_until_complete(coroutine)


def memo_of(encoder: Converter, memo: Mapping[str, Any]) -> dict[str, Payload]:
    """Return a memo as it travels."""
    return {key: encoder.encode([value])[0] for key, value in memo.items()}


def search_attributes_of(attributes: common.TypedSearchAttributes | Mapping[str, Any] | None) -> SearchAttributes:
    """Return search attributes as they travel; nobody may change them."""
    if not attributes:
        return _NO_SEARCH_ATTRIBUTES
    result = SearchAttributes()
    converter.encode_search_attributes(cast(Any, attributes), result)
    return result


_NO_SEARCH_ATTRIBUTES = SearchAttributes()
