"""Tokens and times of one response."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllama_pool.workers.simulated.answers import Kind, Token


@dataclass(slots=True)
class Counts:
    """Sequences are numbered by prompt, then by choice."""

    prompts: tuple[int, ...]
    """Tokens of each prompt."""
    choices: int = 1
    """Sequences of each prompt."""
    tokens: list[int] = field(init=False)
    reasoning: list[int] = field(init=False)
    total: int = 0
    """Generated tokens."""
    arrived: float = 0.0
    scheduled: float = 0.0
    first: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = [0] * self.sequences
        self.reasoning = [0] * self.sequences

    @property
    def sequences(self) -> int:
        return len(self.prompts) * self.choices

    def add(self, index: int, token: Token, now: float) -> None:
        self.last = now
        self.first = self.first or now
        self.total += 1
        self.tokens[index] += 1
        self.reasoning[index] += token.kind is Kind.REASONING

    def running(self, index: int) -> dict[str, int]:
        """Return the usage of one sequence so far."""
        return _usage(self.prompts[index // self.choices], self.tokens[index])

    def final(self) -> dict[str, int]:
        return _usage(sum(self.prompts), self.total)

    def timings(self) -> dict[str, Any] | None:
        """In ms; None for several sequences, as vLLM cannot attribute them."""
        if self.sequences != 1 or not self.scheduled:
            return None
        count = self.total
        generation = (self.last - self.first) * 1000
        inference = self.last - self.scheduled
        return {
            "time_to_first_token_ms": (self.first - self.scheduled) * 1000,
            "generation_time_ms": generation,
            "queue_time_ms": (self.scheduled - self.arrived) * 1000,
            "mean_itl_ms": generation / (count - 1) if count > 1 else None,
            "tokens_per_second": count / inference if inference > 0 else None,
        }


def whole_timings(counts: Counts) -> dict[str, Any] | None:
    """Return the timings of an answer that is not streamed."""
    timings = counts.timings()
    return timings and {**timings, "speculative_decoding": None}


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
