"""A fake model for the OpenAI Agents SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from agents import Model, ModelProvider, ModelResponse, TResponseInputItem, Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from .fakes import think


class FakeModel(Model, ModelProvider):
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
