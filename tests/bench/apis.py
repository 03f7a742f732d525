"""Requests of the benchmark in each API. Every contender answers the same conversation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SERVED = "meta-llama/Llama-3.1-8B-Instruct"
"""Served name of the fake vLLM's model."""
NAME = "llama3.1:8b"
"""Name of the model for Ollama's clients."""
MESSAGES = [
    {
        "role": "system",
        "content": "You are a concise assistant. Answer in plain words, and say when you are not sure. Keep every "
        "answer under five sentences unless the user asks for more detail.",
    },
    {"role": "user", "content": "Why is the sky blue?"},
    {
        "role": "assistant",
        "content": "Because air molecules scatter short wavelengths of sunlight more strongly than long ones.",
    },
    {"role": "user", "content": "And why are sunsets red? Please explain it as you would to a ten year old child."},
]


@dataclass(frozen=True, slots=True)
class Api:
    path: str
    body: dict[str, Any]
    streamed: dict[str, Any]
    """Fields of a request whose answer is streamed."""

    def request(self, *, stream: bool) -> bytes:
        fields = {**self.body, "stream": stream, **(self.streamed if stream else {})}
        return json.dumps(fields, separators=(",", ":")).encode()


OLLAMA = Api(
    "/api/chat",
    {"model": NAME, "messages": MESSAGES, "options": {"temperature": 0.7, "top_p": 0.9, "num_predict": 128}},
    {},
)
OPENAI = Api(
    "/v1/chat/completions",
    {"model": SERVED, "messages": MESSAGES, "temperature": 0.7, "top_p": 0.9, "max_tokens": 128},
    {"stream_options": {"include_usage": True}},
)
APIS = {api.path: api for api in (OLLAMA, OPENAI)}
"""By path. vLLama is measured on one of them, the peers on OPENAI."""
