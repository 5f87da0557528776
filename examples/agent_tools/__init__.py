"""An agent whose tool calls book real things: with Pydantic AI, and with the OpenAI Agents SDK."""
