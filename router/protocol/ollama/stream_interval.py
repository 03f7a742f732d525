"""Tokens that vLLM puts into one event (`stream_interval`) of an answer that is not streamed to the client.

An event costs the router the same whether it holds one token or thirty.
"""

from __future__ import annotations

_MAX = 30
_SLOWEST_TOKEN = 4.0
"""Seconds. A worker that needs longer for a token may count as stalled."""


def of_whole_answers(stall_timeout: float) -> int:
    """`stall_timeout`: seconds of silence in mid-answer that count as a stall."""
    return max(1, min(_MAX, int(stall_timeout / _SLOWEST_TOKEN)))
