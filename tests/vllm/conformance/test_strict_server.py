"""A server with an API key, one slot and a short queue: keys, admission, sleep, and draining, which ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.until import auntil
from tests.support.vllm import response_shape
from tests.support.vllm.server_pair import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    QUESTION,
    RESPONSES,
    TOKENIZE,
    ServerPair,
    Simulate,
    fresh_connections,
    wait_for_requests,
    wait_for_status,
)
from tests.support.vllm.servers import Servers, Spec, VllmServer

API_KEY = "a-key"
MAX_QUEUED = 4
LONG_STREAM = {"prompt": "one two", "ignore_eos": True, "stream": True}
LONG = 8000
"""Tokens that take minutes: a stream lasts until its test ends it, however busy the machine is."""


@pytest.fixture(scope="module")
def strict_spec(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """SmolLM2 without its chat template. A smaller model would finish before requests could queue."""
    folder = tmp_path_factory.mktemp("strict")
    for file in smollm2.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).symlink_to(file)
    limits = ("--max-num-queued-reqs", str(MAX_QUEUED), "--max-num-seqs", "1", "--shutdown-timeout", "240")
    flags = ("--api-key", API_KEY, *limits, "--enable-server-load-tracking")
    return Spec("strict", folder, flags, (("VLLM_SERVER_DEV_MODE", "1"),))


@pytest.fixture
def strict_vllm(servers: Servers, strict_spec: Spec) -> VllmServer:
    return servers.get(strict_spec, own=True)


@pytest.fixture
def strict_pair(simulate: Simulate, strict_vllm: VllmServer) -> ServerPair:
    return simulate(strict_vllm, "--no-chat-template", "--tokens-per-second", "50", api_key=API_KEY)


class PausedStream:
    """A stream that is read up to its first part, until `last_events`: reading on would keep this process busy."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._text = response.aiter_text()
        self._beginning = ""

    async def read_beginning(self) -> None:
        self._beginning = await anext(self._text)

    async def last_events(self) -> list[Any]:
        """Read to the end. Return the shapes of the last two events."""
        parts = [self._beginning, *[part async for part in self._text]]
        return response_shape.of_stream("".join(parts))[-2:]


async def fill_engine(
    client: httpx.AsyncClient, pair: ServerPair, url: str, count: int, *, queued: int = LONG
) -> list[PausedStream]:
    """Start one long stream, which takes the only slot, and others of `queued` tokens behind it."""
    streams = []
    for number in range(count):
        body = {"model": pair.model, **LONG_STREAM, "max_tokens": queued if number else LONG}
        request = client.build_request("POST", url + COMPLETIONS, json=body)
        streams.append(PausedStream(await client.send(request, stream=True)))
        if number == 0:
            await streams[0].read_beginning()
    await wait_for_requests(client, url, count, timeout=10.0, queued=True)
    return streams


async def answers_to_a_burst(pair: ServerPair, url: str) -> dict[str, Any]:
    """The shapes of the answers to many requests at once, by kind."""
    body = {"model": pair.model, **LONG_STREAM, "max_tokens": 30}
    async with fresh_connections(pair.headers) as client:
        requests = (client.post(url + COMPLETIONS, json=body) for _ in range(4 * MAX_QUEUED))
        answers = await asyncio.gather(*requests)
    return {kind_of(answer): response_shape.of_response(answer) for answer in answers}


def kind_of(answer: httpx.Response) -> str:
    if answer.status_code != 200:
        return "refused"
    return "refused in the stream" if '"code": 503' in answer.text else "served"


@pytest.mark.parametrize("header", ["", "Bearer wrong", API_KEY])
def test_a_request_without_the_api_key_is_refused(strict_pair: ServerPair, header: str) -> None:
    real, _ = strict_pair.compare("/v1/models", method="GET", headers={"authorization": header})
    assert (real.status_code, real.json()) == (401, {"error": "Unauthorized"})
    for path in (COMPLETIONS, MESSAGES, RESPONSES):
        refused, _ = strict_pair.compare(path, {"prompt": "x"}, headers={"authorization": header, "x-api-key": API_KEY})
        assert refused.status_code == 401


def test_health_version_load_and_sleep_state_need_no_key(strict_pair: ServerPair) -> None:
    for path in ("/health", "/version", "/load", "/is_sleeping"):
        strict_pair.compare(path, method="GET", headers={"authorization": ""})


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_without_a_chat_template_completes_but_cannot_chat(strict_pair: ServerPair, stream: bool) -> None:
    real, _ = strict_pair.compare_fields(CHAT, **QUESTION, stream=stream)
    assert real.status_code == 400
    strict_pair.compare_fields(MESSAGES, **QUESTION, stream=stream, max_tokens=3)
    strict_pair.compare_fields(RESPONSES, input="hi", stream=stream)
    strict_pair.compare_fields(f"{MESSAGES}/count_tokens", **QUESTION)
    strict_pair.compare_fields(TOKENIZE, **QUESTION)
    strict_pair.compare_fields(COMPLETIONS, prompt="one two", max_tokens=3, stream=stream)


async def test_a_burst_beyond_the_queue_is_refused_before_or_inside_the_stream(strict_pair: ServerPair) -> None:
    """Real vLLM refuses in either way by chance, so send bursts until the rarer way has occurred."""
    shapes: list[dict[str, Any]] = []
    for url in strict_pair.urls:
        found: dict[str, Any] = {}

        async def refuses_in_a_stream(url: str = url, found: dict[str, Any] = found) -> bool:
            found |= await answers_to_a_burst(strict_pair, url)
            return {"served", "refused in the stream"} <= set(found)

        await auntil(refuses_in_a_stream, 180.0, "a burst of which one is served and one is refused in its stream")
        shapes.append(found)
    real, simulated = shapes
    for kind in set(real) & set(simulated):
        response_shape.assert_equal(real[kind], simulated[kind], request=kind)


async def test_a_full_engine_refuses_with_503(strict_pair: ServerPair) -> None:
    refusals = []
    async with fresh_connections(strict_pair.headers) as client:
        for url in strict_pair.urls:
            streams = await fill_engine(client, strict_pair, url, MAX_QUEUED)

            async def complete(url: str = url) -> httpx.Response:
                return await client.post(url + COMPLETIONS, json={"model": strict_pair.model, "prompt": "x"})

            refusals.append(response_shape.of_response(await wait_for_status(complete, 503, timeout=5.0)))
            assert (await client.get(url + "/load")).json()["server_load"] >= MAX_QUEUED
            for stream in streams:
                await stream.response.aclose()
            await wait_for_requests(client, url, 0, timeout=5.0, queued=True)
    response_shape.assert_equal(*refusals)


async def test_sleep_ends_accepted_streams_and_holds_later_requests(strict_pair: ServerPair) -> None:
    """Sleep ends the running stream with "abort" and queued ones without an event; later requests wait for its end."""
    strict_pair.compare("/sleep?level=3")
    endings = []
    async with fresh_connections(strict_pair.headers) as client:
        for url in strict_pair.urls:
            streams = await fill_engine(client, strict_pair, url, MAX_QUEUED - 1)
            asleep = await client.post(url + "/sleep?level=1")
            assert asleep.json() == {"status": "sleeping", "level": 1}
            endings.append([await stream.last_events() for stream in streams])
            assert (await client.get(url + "/is_sleeping")).json() == {"is_sleeping": True}
            assert 'sleep_state="awake"} 0.0' in (await client.get(url + "/metrics")).text
            held = asyncio.create_task(client.post(url + COMPLETIONS, json={"prompt": "x", "max_tokens": 1}))
            assert (await client.get(url + "/health")).status_code == 200
            assert (await client.post(url + "/wake_up")).json() == {"status": "awake", "tags": None}
            assert (await held).status_code == 200
    real = endings[0]
    assert real[0][0]["choices"][0]["finish_reason"] == "abort"
    assert real[1:] == [["DONE"]] * (MAX_QUEUED - 2)
    response_shape.assert_equal(*endings)


async def test_sigterm_lets_accepted_requests_finish_and_refuses_new_ones(
    strict_pair: ServerPair, strict_vllm: VllmServer
) -> None:
    """Must come last, since it ends the server.

    The running stream lasts until a request has been refused. Those queued behind it begin and end after the signal.
    """
    refusals = []
    assert strict_vllm.process is not None
    async with fresh_connections(strict_pair.headers) as client:
        for url in strict_pair.urls:
            running, *accepted = await fill_engine(client, strict_pair, url, MAX_QUEUED - 1, queued=10)
            if url == strict_pair.real:
                strict_vllm.process.send_signal(signal.SIGTERM)
            else:
                await client.post(url + "/simulated/faults", json={"kind": "draining"})

            async def refused(url: str = url) -> httpx.Response | None:
                """A request that comes before the signal would wait for the running one, so the client leaves."""
                body = {"model": strict_pair.model, "prompt": "x", "max_tokens": 1}
                with contextlib.suppress(httpx.ReadTimeout):
                    answer = await client.post(url + COMPLETIONS, json=body, timeout=5.0)
                    return answer if answer.status_code == 500 else None
                return None

            refusals.append(response_shape.of_response(await auntil(refused, 120.0, "a refusal")))
            assert (await client.get(url + "/health")).status_code == 200
            await running.response.aclose()
            for stream in accepted:
                assert (await stream.last_events())[0]["choices"][0]["finish_reason"] == "length"
    response_shape.assert_equal(*refusals)
