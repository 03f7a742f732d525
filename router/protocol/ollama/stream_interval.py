"""Tokens that vLLM puts into one event (`stream_interval`).

An event costs the router the same whether it holds one token or thirty.
"""

from __future__ import annotations

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.protocol.ollama.requests import InferenceRequest

_MAX_WHOLE = 30
_SLOWEST_TOKEN = 4.0
"""Seconds. A worker that needs longer for a token may count as stalled."""


def of_whole_answers(stall_timeout: float) -> int:
    """The interval of answers that are not streamed to the client.

    `stall_timeout`: seconds of silence in mid-answer that count as a stall.
    """
    return max(1, min(_MAX_WHOLE, int(stall_timeout / _SLOWEST_TOKEN)))


def needs_ids(request: InferenceRequest, interval: int | None) -> bool:
    """True if the tokens of an answer must be counted by their ids, because vLLM's count may not arrive."""
    return interval is not None and not request.stream and request.response_format is not None


def choose(request: InferenceRequest, defaults: Defaults, whole: int) -> int | None:
    """None for vLLM's default. `whole`: the interval of answers that are not streamed.

    Not for requests with tools: vLLM's tool parsers lose arguments if an event holds several tokens.
    """
    interval = defaults.stream_interval if request.stream else max(whole, defaults.stream_interval)
    return interval if interval > 1 else None
