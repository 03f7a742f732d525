"""The routes of OpenAI and Anthropic that workers answer, with a valid body for each."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.table import operations

PATHS = tuple(each.path for each in operations(SystemClock()) if not each.path.startswith("/api/"))
"""The paths of the table that are not Ollama's own."""
_FORMS = "/v1/audio/"
JSON_PATHS = tuple(path for path in PATHS if not path.startswith(_FORMS))
"""Those that take JSON; the others take forms."""
MESSAGES = [{"role": "user", "content": "hello"}]
PAIR = {"text_1": "hello", "text_2": "hello"}
RANKED = {"query": "hello", "documents": ["hello"]}
FIELDS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/rerank": RANKED,
    "/rerank": RANKED,
    "/v2/rerank": RANKED,
    "/v1/score": PAIR,
    "/score": PAIR,
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1]},
}


def body(path: str, model: str) -> dict[str, Any]:
    """Return a valid body of a route."""
    return {"model": model, **FIELDS.get(path, {"input": "hello"})}


def content(path: str, model: str) -> dict[str, Any]:
    """Return httpx's arguments for a valid body of any route."""
    if path.startswith(_FORMS):
        return {"data": {"model": model}, "files": {"file": ("a.wav", b"RIFF", "audio/wav")}}
    return {"json": body(path, model)}
