"""The tool that the test model calls, and the question that makes it: models/qwen3.py trains it for both."""

from __future__ import annotations

from typing import Any

QUESTION = "what is the weather in Paris?"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "tools": [TOOL]}
"""Both, as Ollama and vLLM take them alike."""
