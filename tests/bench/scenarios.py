"""Loads of the benchmark. Times are in microseconds unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of the fake vLLM. Without a delay it streams as fast as the router reads."""

    tokens: int
    delay: int = 0
    first: int = 0
    """Until the first token."""
    per_write: int = 1
    """0: each token of the latest stream is written when the client has the one before."""

    @property
    def stepped(self) -> bool:
        return self.per_write == 0

    def line(self) -> str:
        return f"{self.tokens} {self.delay} {self.first} {self.per_write}\n"


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    answers: Answers
    stream: bool
    connections: int
    requests: int
    spread: int = 0
    """In which the first requests begin."""
    open_after: float = 0.0
    """Seconds until all streams are open, when memory is read; 0: not read."""
    limit: int = 60
    """Seconds."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("E", "128 tokens not streamed, 1 connection", Answers(128), False, 1, 300),
        Scenario(
            "B", "256 streams, a token every 40 ms", Answers(128, 40_000, 5000), True, 256, 256, 500_000, open_after=3.0
        ),
        Scenario("C", "64 streams as fast as possible", Answers(128), True, 64, 640),
        Scenario("S", "512 streams, a token every 25 ms", Answers(128, 25_000, 5000), True, 512, 512, 500_000),
        Scenario("D1", "one token not streamed, 32 connections", Answers(1), False, 32, 6000),
        Scenario("D", "128 tokens not streamed, 32 connections", Answers(128), False, 32, 3000),
    )
}
WARM_UP = (
    Scenario("stream", "", Answers(16), True, 32, 64, limit=20),
    Scenario("document", "", Answers(16), False, 32, 1000, limit=20),
)
