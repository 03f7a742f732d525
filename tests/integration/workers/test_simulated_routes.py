"""Every route of a simulated worker that generates: what it says, and its faults."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.until import auntil
from tests.support.vllm.simulated import FAST, workers
from vllama_pool.workers.simulated import Options, faults

MESSAGES = [{"role": "user", "content": "Hi"}]
BRIEF = httpx.Timeout(60, read=1.5)
"""Until a worker is taken to be silent. It is busy, not silent, for less."""
PATIENT = httpx.Timeout(60)


@dataclass(frozen=True)
class Route:
    path: str
    fields: dict[str, Any]
    text: Callable[[dict[str, Any]], str]
    """Returns the text of a whole answer."""
    delta: Callable[[dict[str, Any]], str]
    """Returns the text of an event."""
    error: str
    """The event that takes the place of a token for an error; "" for a cut."""

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"model": "m", **self.fields, **fields}


ROUTES = {
    "chat": Route(
        "/v1/chat/completions",
        {"messages": MESSAGES},
        lambda whole: whole["choices"][0]["message"]["content"],
        lambda event: event["choices"][0].get("delta", {}).get("content", "") if "choices" in event else "",
        'data: {"error": ',
    ),
    "completions": Route(
        "/v1/completions",
        {"prompt": "Hi", "max_tokens": 50},
        lambda whole: whole["choices"][0]["text"],
        lambda event: event["choices"][0]["text"] if "choices" in event else "",
        'data: {"error": ',
    ),
    "messages": Route(
        "/v1/messages",
        {"messages": MESSAGES, "max_tokens": 50},
        lambda whole: whole["content"][0]["text"],
        lambda event: event.get("delta", {}).get("text", ""),
        "event: error\n",
    ),
    "responses": Route(
        "/v1/responses",
        {"input": "Hi"},
        lambda whole: whole["output"][0]["content"][0]["text"],
        lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
        "",
    ),
}
every_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())


@dataclass
class Streamed:
    text: str
    cut: bool

    def tokens(self, route: Route) -> list[str]:
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: {")]
        return [text for line in lines if (text := route.delta(json.loads(line)))]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60.0) as made:
        yield made


async def read(client: httpx.AsyncClient, url: str, route: Route, timeout: httpx.Timeout = PATIENT) -> Streamed:
    """Read a stream to its end, however that comes."""
    text = ""
    try:
        async with client.stream("POST", url + route.path, json=route.body(stream=True), timeout=timeout) as answer:
            async for part in answer.aiter_text():
                text += part
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout):
        return Streamed(text, cut=True)
    return Streamed(text, cut=False)


@every_route
async def test_a_stream_and_a_whole_answer_say_the_same(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        streamed = await read(client, worker.url, route)
        whole = (await client.post(worker.url + route.path, json=route.body())).json()
    assert "".join(streamed.tokens(route)) == route.text(whole)
    assert route.text(whole).startswith("Simulated answer to: Hi")


@every_route
async def test_a_stream_is_cut_after_so_many_tokens(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Cut(after_tokens=4, count=1)])
        streamed = await read(client, worker.url, route)
        assert streamed.cut
        assert len(streamed.tokens(route)) == 4
        assert not (await read(client, worker.url, route)).cut


@every_route
async def test_a_stream_stalls_after_so_many_tokens(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Stall(after_tokens=2)])
        streamed = await read(client, worker.url, route, timeout=BRIEF)
    assert streamed.cut
    assert len(streamed.tokens(route)) == 2


@every_route
@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_in_a_stream_is_the_routes_own(client: httpx.AsyncClient, route: Route, after: int) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Error(after_tokens=after)])
        streamed = await read(client, worker.url, route)
        running = worker.running
    assert len(streamed.tokens(route)) == after
    assert streamed.cut == (not route.error)
    assert route.error in streamed.text
    assert running == 0


@every_route
@pytest.mark.parametrize("fault", [faults.Error(status=503), faults.Status(status=503)], ids=["error", "status"])
async def test_an_error_before_the_answer_has_the_routes_shape(
    client: httpx.AsyncClient, route: Route, fault: faults.RequestFault
) -> None:
    async with workers() as (worker,):
        worker.set_faults([fault])
        answer = await client.post(worker.url + route.path, json=route.body())
    assert answer.status_code == 503
    assert (answer.json().get("type") == "error") == (route.path == "/v1/messages")
    assert "busy" in answer.json()["error"]["message"]


@every_route
async def test_a_stream_that_ends_before_its_first_token(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Empty()])
        streamed = await read(client, worker.url, route)
    assert streamed.tokens(route) == []
    assert streamed.cut == (not route.error)


@every_route
async def test_a_hanging_worker_answers_nothing(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Hang()])
        streamed = await read(client, worker.url, route, timeout=BRIEF)
    assert (streamed.text, streamed.cut) == ("", True)


@every_route
async def test_a_worker_dies_at_a_token(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Die(after_tokens=2)])
        assert (await read(client, worker.url, route)).cut
        assert not worker.listening


@every_route
async def test_garbage_in_an_event(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Garbage(after_tokens=1)])
        streamed = await read(client, worker.url, route)
    assert "not JSON" in streamed.text
    assert not streamed.cut


@every_route
async def test_a_dead_engine_and_a_draining_worker_answer_500(client: httpx.AsyncClient, route: Route) -> None:
    async with workers() as (worker,):
        for fault in (faults.Dead(), faults.Draining()):
            worker.set_faults([fault])
            answer = await client.post(worker.url + route.path, json=route.body(stream=True))
            assert answer.status_code == 500
            assert (answer.json().get("type") == "error") == (route.path == "/v1/messages")


@every_route
async def test_a_client_that_leaves_frees_its_slot(client: httpx.AsyncClient, route: Route) -> None:
    async with workers(FAST) as (worker,):
        worker.set_faults([faults.Stall(after_tokens=1)])
        await read(client, worker.url, route, timeout=BRIEF)
        await auntil(lambda: worker.running == 0)


POOLING = Options(model="m", embedding=True)
POOLED: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "a"},
    "/rerank": {"query": "a", "documents": ["a", "b"]},
    "/v1/rerank": {"query": "a", "documents": ["a", "b"]},
    "/score": {"text_1": "a", "text_2": ["a", "b"]},
    "/v1/score": {"text_1": "a", "text_2": ["a", "b"]},
}
every_pooled = pytest.mark.parametrize(("path", "fields"), POOLED.items(), ids=POOLED.keys())


@every_pooled
async def test_a_pooling_route_has_status_and_cut_faults(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> None:
    async with workers(POOLING) as (worker,):
        worker.set_faults([faults.Status(status=429, count=1), faults.Cut(count=1)])
        assert (await client.post(worker.url + path, json=fields)).status_code == 429
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(worker.url + path, json=fields)
        assert (await client.post(worker.url + path, json=fields)).status_code == 200


@every_pooled
async def test_only_a_pooling_worker_has_a_pooling_route(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> None:
    async with workers() as (worker,):
        assert (await client.post(worker.url + path, json=fields)).status_code == 404
