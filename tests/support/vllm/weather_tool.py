"""A tool, and the question for which the test model calls it (see models/qwen3.py)."""

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
"""Fields that Ollama and vLLM share."""
