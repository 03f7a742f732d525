"""The /metrics page."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from vllama_pool.workers.simulated.engine import Engine, Entry

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
REASONS = ("stop", "length", "abort", "error", "repetition")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_TIMES = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_inference_time_seconds",
)
_SIZES = ("request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens", "iteration_tokens_total")


class Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str, labels: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            le = "+Inf" if bound == float("inf") else f"{float(bound)}"
            yield f'{name}_bucket{{{labels},le="{le}"}} {float(total)}'
        yield f"{name}_count{{{labels}}} {float(total)}"
        yield f"{name}_sum{{{labels}}} {self._sum}"


class SimulatedMetrics:
    """Counters of one worker; observes its engine."""

    def __init__(self, model: str, kv_tokens: int) -> None:
        self._started = time.time()
        self._labels = f'engine="0",model_name="{_escape(model)}"'
        self._model = f'model_name="{_escape(model)}"'
        self._kv_tokens = kv_tokens
        self._histograms = {name: Histogram(_SECONDS) for name in _TIMES}
        self._histograms |= {name: Histogram(_TOKENS) for name in _SIZES}
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished_by: Counter[str] = Counter()
        self.rejected = 0
        self.http: Counter[tuple[str, str, str]] = Counter()
        """By path, method and status class."""

    # --- the engine's observer ---

    def stepped(self, tokens: int, interval: float) -> None:
        self.generation_tokens += tokens
        self._histograms["inter_token_latency_seconds"].observe(interval, tokens)
        self._histograms["iteration_tokens_total"].observe(tokens)

    def finished(self, entry: Entry, reason: str, now: float) -> None:
        self.finished_by[reason if reason in REASONS else "stop"] += 1
        self.prompt_tokens += entry.sequence.prompt_tokens
        observed = {
            "time_to_first_token_seconds": entry.first - entry.arrived,
            "e2e_request_latency_seconds": now - entry.arrived,
            "request_queue_time_seconds": entry.scheduled - entry.arrived,
            "request_prefill_time_seconds": entry.first - entry.scheduled,
            "request_decode_time_seconds": now - entry.first,
            "request_inference_time_seconds": now - entry.scheduled,
            "request_prompt_tokens": entry.sequence.prompt_tokens,
            "request_generation_tokens": entry.sequence.count,
        }
        if entry.sequence.count > 1:
            rest = (now - entry.first) / (entry.sequence.count - 1)
            observed["request_time_per_output_token_seconds"] = rest
        for name, value in observed.items():
            self._histograms[name].observe(max(0.0, value))

    def limited(self, max_tokens: int) -> None:
        self._histograms["request_params_max_tokens"].observe(max_tokens)

    def answered(self, handler: str, method: str, status: int) -> None:
        self.http[handler, method, f"{status // 100}xx"] += 1

    # --- the page ---

    def page(self, engine: Engine, sleep_state: str = "awake") -> bytes:
        return "\n".join((*self._gauges(engine, sleep_state), *self._counters(), *self._rest(), "")).encode()

    def _gauges(self, engine: Engine, sleep_state: str) -> Iterator[str]:
        waiting = engine.last_waiting
        usage = min(1.0, engine.tokens_held / self._kv_tokens)
        yield from self._one("num_requests_running", "gauge", len(engine.running))
        yield from self._one("num_requests_waiting", "gauge", waiting)
        yield from self._one("num_requests_waiting_by_reason", "gauge", waiting, 'reason="capacity"')
        yield from self._one("num_requests_waiting_by_reason", "", 0, 'reason="deferred"')
        yield from self._one("kv_cache_usage_perc", "gauge", usage)
        for name in ("awake", "weights_offloaded", "discard_all"):
            kind = "gauge" if name == "awake" else ""
            yield from self._one("engine_sleep_state", kind, int(name == sleep_state), f'sleep_state="{name}"')

    def _counters(self) -> Iterator[str]:
        yield from self._one("num_preemptions_total", "counter", 0)
        yield from self._one("prefix_cache_queries_total", "counter", self.prompt_tokens)
        yield from self._one("prefix_cache_hits_total", "counter", 0)
        yield from self._one("prompt_tokens_total", "counter", self.prompt_tokens)
        yield from self._one("prompt_tokens_cached_total", "counter", 0)
        yield from self._one("generation_tokens_total", "counter", self.generation_tokens)
        for index, reason in enumerate(REASONS):
            kind = "" if index else "counter"
            count = self.finished_by[reason]
            yield from self._one("request_success_total", kind, count, f'finished_reason="{reason}"')
        yield "# TYPE vllm:admission_rejections_total counter"
        for reason, count in (("max_num_queued_reqs", self.rejected), ("max_num_queued_tokens", 0)):
            yield f'vllm:admission_rejections_total{{{self._model},reason="{reason}"}} {float(count)}'

    def _rest(self) -> Iterator[str]:
        for name, histogram in self._histograms.items():
            yield f"# TYPE vllm:{name} histogram"
            yield from histogram.lines(f"vllm:{name}", self._labels)
        yield "# TYPE process_start_time_seconds gauge"
        yield f"process_start_time_seconds {self._started!r}"
        info = f'block_size="16",engine="0",kv_cache_size_tokens="{self._kv_tokens}"'
        yield "# TYPE vllm:cache_config_info gauge"
        yield f'vllm:cache_config_info{{{info},num_gpu_blocks="{self._kv_tokens // 16}"}} 1.0'
        yield "# TYPE http_requests_total counter"
        for (handler, method, status), count in self.http.items():
            yield f'http_requests_total{{handler="{handler}",method="{method}",status="{status}"}} {float(count)}'

    def _one(self, name: str, kind: str, value: float, more: str = "") -> Iterator[str]:
        if kind:
            yield f"# TYPE vllm:{name} {kind}"
        labels = ",".join(filter(None, (self._labels, more)))
        yield f"vllm:{name}{{{labels}}} {float(value)}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
