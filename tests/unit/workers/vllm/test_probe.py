"""Probes: the metrics parser on a page of vLLM 0.32 (12 requests on 8 slots), requests over a mock transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.vllm.probe import (
    MAX_BYTES,
    BadResponse,
    ConnectionRefused,
    Health,
    Metrics,
    ServedModel,
    TimedOut,
    check_health,
    http_client,
    list_models,
    model_infos,
    parse_metrics,
    probe,
    scrape,
    to_load,
    version,
)

PAGE = (Path(__file__).parents[3] / "data" / "vllm-metrics.txt").read_text()
URL = "http://worker.test:8100"


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(handler))


def vllm(request: httpx.Request) -> httpx.Response:
    """A healthy vLLM with a base under two names and an adapter."""
    match request.url.path:
        case "/health":
            return httpx.Response(200)
        case "/version":
            return httpx.Response(200, json={"version": "0.32.0"})
        case "/metrics":
            return httpx.Response(200, text=PAGE)
        case "/v1/models":
            entry = {"object": "model", "owned_by": "vllm"}
            base = entry | {"root": "/m", "parent": None, "max_model_len": 1024}
            lora = entry | {"id": "ada", "root": "/l", "parent": "tiny", "max_model_len": None}
            return httpx.Response(200, json={"data": [base | {"id": "tiny"}, base | {"id": "alias"}, lora]})
        case "/v1/completions":
            return httpx.Response(405, json={"detail": "Method Not Allowed"})
        case _:
            return httpx.Response(404, json={"detail": "Not Found"})


def test_a_metrics_page_of_vllm_is_parsed() -> None:
    metrics = parse_metrics(PAGE)
    assert metrics == Metrics(
        running=8,
        waiting=4,
        kv_usage=pytest.approx(0.02203856749311295),
        generation_tokens=350,
        prompt_tokens=828,
        asleep=False,
        reported=True,
    )


def test_missing_metrics_are_zero_and_not_reported() -> None:
    assert parse_metrics("") == Metrics()
    assert not parse_metrics('http_requests_total{handler="/health"} 3.0\n').reported
    assert parse_metrics("vllm:num_requests_running 2\n") == Metrics(running=2, reported=True)


def test_metrics_of_engines_are_summed_and_the_fullest_cache_counts() -> None:
    page = "".join(
        f'vllm:num_requests_running{{engine="{e}",model_name="m"}} {n}\n'
        f'vllm:kv_cache_usage_perc{{engine="{e}",model_name="m"}} {kv}\n'
        for e, n, kv in ((0, 3.0, 0.25), (1, 4.0, 0.75))
    )
    assert parse_metrics(page) == Metrics(running=7, kv_usage=0.75, reported=True)


def test_metrics_of_a_data_parallel_server_are_summed_though_its_idle_engines_have_no_gauges() -> None:
    page = """\
vllm:prompt_tokens_total{engine="0",model_name="q"} 1622.0
vllm:prompt_tokens_total{engine="1",model_name="q"} 1718.0
vllm:generation_tokens_total{engine="0",model_name="q"} 96.0
vllm:generation_tokens_total{engine="1",model_name="q"} 100.0
vllm:num_requests_running{engine="0",model_name="q"} 4.0
vllm:num_requests_waiting{engine="0",model_name="q"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="q",reason="capacity"} 2.0
vllm:engine_sleep_state{engine="0",model_name="q",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="1",model_name="q",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="1",model_name="q",sleep_state="discard_all"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="q"} 0.25
"""
    assert parse_metrics(page) == Metrics(
        running=4, waiting=2, kv_usage=0.25, generation_tokens=196, prompt_tokens=3340, reported=True
    )


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "many"])
def test_invalid_metric_values_are_skipped(value: str) -> None:
    page = f'vllm:num_requests_waiting{{engine="0"}} {value}\nvllm:num_requests_running{{engine="0"}} 1.0\n'
    assert parse_metrics(page) == Metrics(running=1, reported=True)


def test_metrics_with_braces_in_labels_and_timestamps_are_parsed() -> None:
    page = 'vllm:num_requests_running{engine="0",model_name="odd} 9 name"} 5.0 1795374361000\n'
    assert parse_metrics(page).running == 5


def test_sleep_mode_is_read_from_the_metrics() -> None:
    assert parse_metrics('vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0.0\n').asleep
    assert not parse_metrics('vllm:engine_sleep_state{engine="0",sleep_state="discard_all"} 0.0\n').asleep


def test_a_healthy_server_that_sleeps_is_reported_as_sleeping() -> None:
    assert to_load(Metrics(asleep=True)).state is WorkerState.SLEEPING
    assert to_load(Metrics(asleep=True), WorkerState.DRAINING).state is WorkerState.DRAINING


@pytest.mark.parametrize("asleep", [True, False])
async def test_without_gauges_sleep_mode_is_queried_by_its_route(asleep: bool) -> None:
    def quiet(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/is_sleeping":
            return httpx.Response(200, json={"is_sleeping": asleep})
        return httpx.Response(200, text="")

    async with answering(quiet) as client:
        assert (await scrape(client, URL)).asleep is asleep


async def test_a_server_without_gauges_and_without_the_sleep_routes_is_awake() -> None:
    async with answering(lambda r: httpx.Response(404 if r.url.path == "/is_sleeping" else 200)) as client:
        assert not (await scrape(client, URL)).asleep


def test_model_infos_group_aliases_and_inherit_the_bases_length() -> None:
    infos = model_infos(
        [
            ServedModel("tiny", "/m", "", 1024),
            ServedModel("alias", "/m", "", 1024),
            ServedModel("ada", "/l", "tiny", 0),
        ]
    )
    assert [(i.name, i.aliases, i.parent, i.context_length) for i in infos] == [
        ("tiny", ("alias",), "", 1024),
        ("ada", (), "tiny", 1024),
    ]
    assert all(i.capabilities == ("completion",) for i in infos)
    assert model_infos([ServedModel("e")], ("embedding",))[0].capabilities == ("embedding",)


async def test_a_healthy_server_is_probed_completely() -> None:
    async with answering(vllm) as client:
        result = await probe(client, URL + "/")
    assert result.health is Health.OK
    assert result.version == "0.32.0"
    assert [m.name for m in result.models] == ["tiny", "alias", "ada"]
    assert (result.load.state, result.load.running, result.load.waiting) == (WorkerState.READY, 8, 4)
    assert result.tasks == ("completion",)
    assert result.problem == ""


async def test_an_embedding_server_is_recognized_by_its_routes() -> None:
    def embedding(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/embeddings":
            return httpx.Response(405)
        if request.url.path == "/v1/completions":
            return httpx.Response(404)
        return vllm(request)

    async with answering(embedding) as client:
        assert (await probe(client, URL)).tasks == ("embedding",)


async def test_a_503_means_a_dead_engine() -> None:
    async with answering(lambda _: httpx.Response(503)) as client:
        result = await probe(client, URL)
    assert result.health is Health.DEAD
    assert result.load.state is WorkerState.STOPPED
    assert "died" in result.problem


async def test_a_server_other_than_vllm_is_unreachable() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>hello</html>")

    async with answering(page) as client:
        assert await check_health(client, URL) is Health.OK
        with pytest.raises(BadResponse, match="not a list of models"):
            await list_models(client, URL)
        assert await version(client, URL) == ""
        result = await probe(client, URL)
    assert result.health is Health.UNREACHABLE
    assert "not a list of models" in result.problem


async def test_connection_errors_and_timeouts_have_types() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    def hang(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("late", request=request)

    async with answering(refuse) as client:
        assert await check_health(client, URL) is Health.STARTING
        with pytest.raises(ConnectionRefused):
            await scrape(client, URL)
    async with answering(hang) as client:
        assert await check_health(client, URL) is Health.UNREACHABLE
        with pytest.raises(TimedOut):
            await scrape(client, URL)


async def test_a_probe_follows_no_redirect() -> None:
    def redirect(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "worker.test"
        return httpx.Response(302, headers={"location": "http://elsewhere.test/"})

    async with answering(redirect) as client:
        with pytest.raises(BadResponse, match="302"):
            await scrape(client, URL)


async def test_a_response_over_the_size_limit_is_an_error() -> None:
    async with answering(lambda _: httpx.Response(200, content=b"x" * (MAX_BYTES + 1))) as client:
        with pytest.raises(BadResponse, match="more than"):
            await scrape(client, URL)


async def test_probes_send_the_key_as_a_bearer_token() -> None:
    def guarded(request: httpx.Request) -> httpx.Response:
        if request.headers.get("authorization") != "Bearer secret":
            return httpx.Response(401, json={"error": "Unauthorized"})
        return vllm(request)

    async with answering(guarded) as client:
        assert (await list_models(client, URL, "secret"))[0].name == "tiny"
        with pytest.raises(BadResponse) as failed:
            await list_models(client, URL)
    assert failed.value.status == 401


async def test_the_probe_client_ignores_environment_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    async with http_client() as client:
        assert await check_health(client, "http://127.0.0.1:1") is Health.STARTING
