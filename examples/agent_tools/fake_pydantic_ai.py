"""A fake model for Pydantic AI."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from .fakes import think


async def _answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    parts = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    thought = think({part.tool_call_id: str(part.content) for part in parts})
    if isinstance(thought, str):
        return ModelResponse(parts=[TextPart(thought)])
    return ModelResponse(
        parts=[ToolCallPart("book", {"kind": kind, "name": name}, tool_call_id=id) for id, kind, name in thought]
    )


model = FunctionModel(_answer)
