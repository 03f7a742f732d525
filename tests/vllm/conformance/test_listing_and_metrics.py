"""Routes on which a server reports its state: health, version, models, metrics."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.support.vllm.server_pair import CHAT, QUESTION, ServerPair

SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? \S+$")
USED = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:engine_sleep_state",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:request_success_total",
    "vllm:admission_rejections_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_sum",
    "vllm:request_queue_time_seconds_count",
    "vllm:cache_config_info",
    "http_requests_total",
}
"""Metrics that the project, its dashboards and its documentation use."""


def label_names(url: str) -> dict[str, set[str]]:
    """The names of all labels of each metric on a /metrics page."""
    page = httpx.get(f"{url}/metrics", trust_env=False)
    assert page.headers["content-type"].startswith("text/plain")
    found: dict[str, set[str]] = {}
    for sample in filter(None, map(SAMPLE.match, page.text.splitlines())):
        found.setdefault(sample[1], set()).update(re.findall(r'(\w+)="', sample[2] or ""))
    return found


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/load", "/v1/models"])
def test_health_version_load_and_models_answer_as_the_real_ones(chat_pair: ServerPair, path: str) -> None:
    chat_pair.compare(path, method="GET")


def test_simulated_metrics_have_the_real_names_and_labels(chat_pair: ServerPair) -> None:
    chat_pair.compare_fields(CHAT, **QUESTION, max_tokens=2)
    real, simulated = map(label_names, chat_pair.urls)
    assert set(real) >= USED
    assert set(simulated) >= USED
    assert set(simulated) - set(real) == set(), "names that vLLM does not have"
    for name, labels in simulated.items():
        assert labels <= real[name], name
        assert name == "vllm:cache_config_info" or labels == real[name], name
