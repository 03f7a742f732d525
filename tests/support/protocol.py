"""A stopped clock, captured streams and models, for tests of the protocol."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import NextStep, Timing, UpstreamRequest
from vllama_pool.workers.registry.record import ModelInfo

STREAMS = Path(__file__).parent.parent / "data" / "streams"
"""Streams captured from vLLM 0.32 (SmolLM2-135M-Instruct, and a tiny Qwen3 with tools and thinking)."""

MODEL = ModelInfo(name="smollm2:135m", context_length=2048, template="{{ messages }}")
THINKER = ModelInfo(
    name="qwen3-tiny",
    context_length=1024,
    template="{{ messages }} {{ enable_thinking }} {{ tools }}",
    capabilities=("completion", "tools", "thinking"),
)
TIMING = Timing(arrived=1_000_000, sent=3_000_000)


class StillClock:
    """Stopped on 22 Nov 2026, 10 ms after the request's arrival."""

    def time_ns(self) -> int:
        return 1_795_375_700_250_000_000

    def monotonic_ns(self) -> int:
        return 11_000_000


STAMP = "2026-11-22T19:28:20.25Z"
CLOCK = StillClock()


def stream(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(finish: str | None = None, stop_reason: Any = None, logprobs: Any = None, **fields: Any) -> bytes:
    """Return a chat event as vLLM writes it."""
    choice = {"index": 0, "delta": fields, "logprobs": logprobs, "finish_reason": finish, "stop_reason": stop_reason}
    return event(id="chatcmpl-1", object="chat.completion.chunk", choices=[choice])


def usage(prompt: int = 5, completion: int = 3, **fields: Any) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion}, **fields)


DONE = b"data: [DONE]\n\n"


def outgoing(step: NextStep) -> UpstreamRequest:
    """Return the step as a request, which needs no preflight."""
    assert isinstance(step, UpstreamRequest)
    return step


def run(translator: TextTranslator, data: bytes, cuts: Iterable[int] = ()) -> bytes:
    """Return the client's bytes for a stream cut at these offsets."""
    offsets = [0, *sorted(cuts), len(data)]
    out = b"".join(translator.feed(data[start:end]) for start, end in itertools.pairwise(offsets))
    return out + translator.finish()


def objects(answer: bytes) -> list[dict[str, Any]]:
    """Return the objects of an NDJSON answer, or the one of a JSON answer."""
    return [json.loads(line) for line in answer.split(b"\n") if line]


def use_once(expiry: ExpiryTracker, model: str, keep_alive: int | None, at: int) -> None:
    """Begin and end a request at once, at this monotonic time in nanoseconds."""
    expiry.begin(model, keep_alive, at, at).end(at)
