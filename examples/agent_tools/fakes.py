"""Two fake models, so that the example runs offline. Both do what `think` says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from agents import Model, ModelProvider, ModelResponse, TResponseInputItem, Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from pydantic_ai.messages import ModelMessage, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.messages import ModelResponse as PydanticResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel

Call = tuple[str, str, str]
"""The id of a tool call, and the arguments: a kind and a name."""


def think(results: dict[str, str]) -> list[Call] | str:
    """What a model would do, given the results of its tool calls: the next calls, or the answer."""
    if not results:
        return [("call-1", "flight", "Rome"), ("call-2", "hotel", "Plaza")]  # in parallel
    if "full" in results["call-2"] and "call-3" not in results:
        return [("call-3", "hotel", "Astoria")]
    return "; ".join(results.values())


def _pydantic(messages: list[ModelMessage], info: AgentInfo) -> PydanticResponse:
    parts = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    thought = think({part.tool_call_id: str(part.content) for part in parts})
    if isinstance(thought, str):
        return PydanticResponse(parts=[TextPart(thought)])
    return PydanticResponse(
        parts=[ToolCallPart("book", {"kind": kind, "name": name}, tool_call_id=id) for id, kind, name in thought]
    )


pydantic_model = FunctionModel(_pydantic)


class OpenAIModel(Model, ModelProvider):
    """A model of the OpenAI Agents SDK, and the provider that gives it."""

    def get_model(self, model_name: str | None) -> Model:
        """Returns itself, whatever the name."""
        return self

    async def get_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], *args: Any, **options: Any
    ) -> ModelResponse:
        """Answers."""
        items: list[Any] = [] if isinstance(input, str) else input
        outputs = [item for item in items if item.get("type") == "function_call_output"]
        thought = think({item["call_id"]: item["output"] for item in outputs})
        if isinstance(thought, str):
            text = ResponseOutputText(text=thought, annotations=[], type="output_text")
            message = ResponseOutputMessage(id="", content=[text], role="assistant", status="completed", type="message")
            return ModelResponse(output=[message], usage=Usage(), response_id=None)
        calls = [
            ResponseFunctionToolCall(
                call_id=id,
                name="book",
                arguments=json.dumps({"kind": kind, "name": name}),
                type="function_call",
                status="completed",
            )
            for id, kind, name in thought
        ]
        return ModelResponse(output=[*calls], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """Is not called."""
        raise NotImplementedError
