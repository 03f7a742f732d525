"""The /metrics page, as the probe reads it."""

from __future__ import annotations

from dataclasses import dataclass

from vllama_pool.workers.simulated.engine import Engine, Pace, Pause
from vllama_pool.workers.simulated.metrics import SimulatedMetrics
from vllama_pool.workers.vllm.probe import parse_metrics


@dataclass
class Two:
    """A sequence of two tokens."""

    prompt_tokens: int = 30
    count: int = 0

    def step(self, now: float) -> str:
        self.count += 1
        return "length" if self.count == 2 else ""


def test_the_probe_reads_what_the_engine_does() -> None:
    metrics = SimulatedMetrics('m"odel', kv_tokens=100)
    engine = Engine(Pace(slots=2, tokens_per_second=10.0), metrics)
    for _ in range(3):
        engine.submit(Two(), 0.0)
    engine.step(1.0)
    seen = parse_metrics(metrics.page(engine).decode())
    assert (seen.running, seen.waiting, seen.kv_usage) == (2, 1, 0.62)
    assert (seen.generation_tokens, seen.prompt_tokens) == (2, 0)
    assert seen.reported
    assert not seen.asleep
    engine.step(2.0)
    page = metrics.page(engine).decode()
    assert parse_metrics(page).prompt_tokens == 60
    assert 'vllm:request_success_total{engine="0",model_name="m\\"odel",finished_reason="length"} 2.0' in page
    assert 'vllm:e2e_request_latency_seconds_count{engine="0",model_name="m\\"odel"} 2.0' in page


def test_a_sleeping_engine_shows_its_level_and_hides_the_rest() -> None:
    metrics = SimulatedMetrics("m", kv_tokens=100)
    engine = Engine(Pace(slots=1, tokens_per_second=10.0), metrics)
    engine.suspend(Pause.NEW)
    engine.submit(Two(), 0.0)
    page = metrics.page(engine, "weights_offloaded").decode()
    assert 'sleep_state="weights_offloaded"} 1.0' in page
    seen = parse_metrics(page)
    assert seen.asleep
    assert (seen.running, seen.waiting) == (0, 0)


def test_histograms_add_up() -> None:
    metrics = SimulatedMetrics("m", kv_tokens=100)
    engine = Engine(Pace(slots=1, tokens_per_second=10.0), metrics)
    metrics.stepped(3, 0.03)
    metrics.stepped(1, 500.0)
    page = metrics.page(engine).decode()
    name = "vllm:inter_token_latency_seconds"
    buckets = [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"{name}_bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[2], buckets[-2], buckets[-1]) == (0.0, 3.0, 3.0, 4.0)
    assert f'{name}_sum{{engine="0",model_name="m"}} 500.09' in page
