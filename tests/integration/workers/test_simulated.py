"""The simulated worker over real sockets: what it answers, how it is loaded, what its faults look like."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.until import auntil, until
from tests.support.vllm.simulated import COMMAND, FAST, IGNORE_SIGTERM, SimulatedProcess, workers
from vllama_pool.workers.simulated import Options, Simulated, faults

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**HI, "stream": True}
SLOW = Options(model="m", tokens_per_second=20.0, ttft=0.0)
ENDLESS = {**STREAM, "max_tokens": 8000, "ignore_eos": True}
BRIEF = httpx.Timeout(60, read=1.5)
"""Until a worker is taken to be silent. It is busy, not silent, for less."""


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60.0) as made:
        yield made


async def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, checked for its frame and its end."""
    await response.aread()
    parts = response.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def content(streamed: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in streamed if event["choices"])


async def test_a_stream_and_a_whole_answer_say_the_same(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        streamed = await events(await client.post(worker.url + CHAT, json=STREAM))
        whole = (await client.post(worker.url + CHAT, json=HI)).json()
    assert content(streamed) == whole["choices"][0]["message"]["content"]
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert streamed[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["completion_tokens"] == 65


async def test_a_cut_answer_is_continued_on_another_worker(client: httpx.AsyncClient) -> None:
    async with workers(FAST, FAST) as (first, second):
        asked = {**STREAM, "return_token_ids": True}
        streamed = await events(await client.post(first.url + CHAT, json=asked))
        prompt, ids = streamed[0]["prompt_token_ids"], []
        for event in streamed[1:8]:
            ids += event["choices"][0]["token_ids"]
        rest = await client.post(
            second.url + "/v1/completions", json={"model": "m", "prompt": prompt + ids, "max_tokens": 100}
        )
        assert content(streamed[:8]) + rest.json()["choices"][0]["text"] == content(streamed)


async def test_tokenize_detokenize_and_the_answers_ids_agree(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        tokens = (await client.post(worker.url + "/tokenize", json={"model": "m", **HI})).json()
        prompt = (await client.post(worker.url + "/detokenize", json={"tokens": tokens["tokens"]})).json()["prompt"]
        assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        answer = (await client.post(worker.url + CHAT, json={**HI, "return_token_ids": True, "max_tokens": 9})).json()
        assert answer["prompt_token_ids"] == tokens["tokens"]
        assert answer["usage"]["prompt_tokens"] == tokens["count"]
        ids = answer["choices"][0]["token_ids"]
        text = (await client.post(worker.url + "/detokenize", json={"tokens": ids})).json()["prompt"]
        assert text == answer["choices"][0]["message"]["content"]


async def test_a_simulated_worker_identifies_itself(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        version = await client.get(worker.url + "/version")
        assert version.json() == {"version": "0.32.0+simulated"}
        assert version.headers["server"] == "vllama-simulated"
        assert (await client.get(worker.url + "/simulated")).json()["simulated"] is True
        assert (await client.get(worker.url + "/v1/models")).json()["data"][0]["owned_by"] == "simulated"


async def test_sequences_wait_for_a_slot_and_metrics_show_it(client: httpx.AsyncClient) -> None:
    async with workers(Options(model="m", slots=2, tokens_per_second=200.0, ttft=0.0)) as (worker,):
        asked = [
            asyncio.create_task(client.post(worker.url + CHAT, json={**ENDLESS, "max_tokens": 60})) for _ in range(5)
        ]
        await auntil(lambda: (worker.running, worker.waiting) == (2, 3))
        page = (await client.get(worker.url + "/metrics")).text
        assert 'vllm:num_requests_running{engine="0",model_name="m"} 2.0' in page
        assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 3.0' in page
        assert {response.status_code for response in await asyncio.gather(*asked)} == {200}
        assert worker.tokens == 300
        assert (worker.running, worker.waiting) == (0, 0)


async def test_speed_decides_how_many_tokens_come(client: httpx.AsyncClient) -> None:
    """Over the same time, a worker of twice the speed generates twice the tokens."""
    fast, slow = (dataclasses.replace(SLOW, tokens_per_second=200.0, speed=speed) for speed in (2.0, 1.0))
    async with workers(fast, slow) as (first, second), contextlib.AsyncExitStack() as streams:
        for worker in (first, second):
            await streams.enter_async_context(client.stream("POST", worker.url + CHAT, json=ENDLESS))
        await auntil(lambda: second.tokens >= 60)
        assert first.tokens / second.tokens == pytest.approx(2.0, rel=0.2)


async def test_a_client_that_leaves_frees_its_slot_at_once(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(SLOW, slots=1)) as (worker,):
        async with client.stream("POST", worker.url + CHAT, json=ENDLESS) as response:
            lines = response.aiter_lines()
            await anext(lines)
            waiting = asyncio.create_task(client.post(worker.url + CHAT, json={**HI, "max_tokens": 1}))
            await auntil(lambda: worker.waiting == 1)
        assert (await waiting).status_code == 200
        await auntil(lambda: worker.running == 0)
        assert worker.aborted == 1
        assert worker.tokens < 100


async def test_a_disconnect_without_streaming_counts_as_aborted(client: httpx.AsyncClient) -> None:
    async with workers(SLOW) as (worker,):
        with pytest.raises(httpx.ReadTimeout):
            await client.post(worker.url + CHAT, json=HI, timeout=BRIEF)
        await auntil(lambda: worker.running == 0)
        assert worker.aborted == 1


async def test_a_slow_reader_gets_several_tokens_in_one_event() -> None:
    """While the client does not read, tokens gather; when it does, all of them come, in fewer events."""
    async with workers(dataclasses.replace(FAST, tokens_per_second=200_000.0, max_model_len=200_000)) as (worker,):
        body = json.dumps({**ENDLESS, "max_tokens": 100_000, "stream_options": {"include_usage": True}}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port, limit=2**12)
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        )
        await auntil(lambda: worker.tokens == 100_000, 20.0)
        text = (await reader.read(-1)).decode()
        writer.close()
        await writer.wait_closed()
    lines = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert lines[-1]["usage"]["completion_tokens"] == 100_000
    assert len(lines) < 50_000
    assert len(content(lines).split()) == pytest.approx(100_000, abs=20)


async def test_a_connection_is_idle_from_its_first_answer_on() -> None:
    async with workers(dataclasses.replace(FAST, keep_alive=0.05)) as (worker,):
        fresh_reader, fresh = await asyncio.open_connection("127.0.0.1", worker.port)
        reader, used = await asyncio.open_connection("127.0.0.1", worker.port)
        async with asyncio.timeout(30):
            used.write(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in await reader.read()
            fresh.write(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in await fresh_reader.read()
        for writer in (used, fresh):
            writer.close()
            await writer.wait_closed()


async def test_an_idle_connection_is_closed() -> None:
    async with workers(dataclasses.replace(FAST, keep_alive=0.2)) as (worker,):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        for _ in range(2):
            writer.write(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"}")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_bytes", "answers"),
    [
        (b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n" * 3, 3),
        (b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 1),
        (b"GET /version HTTP/1.0\r\n\r\n", 1),
        (b"no HTTP at all\r\n\r\n", 1),
    ],
)
async def test_requests_as_clients_may_send_them(request_bytes: bytes, answers: int) -> None:
    async with workers(dataclasses.replace(FAST, keep_alive=0.2)) as (worker,):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(request_bytes)
        async with asyncio.timeout(30):
            assert (await reader.read()).count(b"HTTP/1.1 ") == answers
        writer.close()
        await writer.wait_closed()


# --- faults ---


async def test_an_error_status_for_the_next_requests(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Status(status=429, count=2, retry_after=1.5)])
        answers = [await client.post(worker.url + CHAT, json=HI) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "1.5"
    assert answers[0].json()["error"]["code"] == 429


async def test_faults_are_set_over_http_and_say_what_they_are(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        url = worker.url + "/simulated/faults"
        given = await client.post(url, json={"kind": "status", "status": 502})
        assert given.json()["what"] == "faults of a simulated worker"
        assert (await client.post(worker.url + CHAT, json=HI)).status_code == 502
        await client.delete(url)
        assert (await client.post(worker.url + CHAT, json=HI)).status_code == 200
        assert (await client.post(url, json={"kind": "nonsense"})).status_code == 400


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_an_error_event_inside_the_stream(client: httpx.AsyncClient, after: int) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Error(after_tokens=after, status=503)])
        answer = await client.post(worker.url + CHAT, json=STREAM)
        assert answer.status_code == 200
        *before, last = await events(answer)
        assert last["error"]["code"] == 503
        assert len(before) == (after + 1 if after else 0)
        assert (await client.post(worker.url + CHAT, json=HI)).status_code == 503
        await auntil(lambda: worker.running == 0)


async def test_a_stream_that_ends_without_a_word(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Empty(count=2)])
        answer = await client.post(worker.url + CHAT, json=STREAM)
        assert (answer.status_code, answer.text) == (200, "data: [DONE]\n\n")
        assert (await client.post(worker.url + CHAT, json=HI)).status_code == 500
        assert (await client.post(worker.url + CHAT, json=STREAM)).text.count("data: ") > 60


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_is_cut_after_so_many_tokens(client: httpx.AsyncClient, reset: bool) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Cut(after_tokens=4, reset=reset, count=1)])
        lines: list[str] = []
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # noqa: PT012  the cut comes while reading
            async with client.stream("POST", worker.url + CHAT, json=STREAM) as response:
                async for line in response.aiter_lines():
                    lines.append(line)
        if not reset:  # a reset may overtake what was sent
            assert len([line for line in lines if line]) == 5
        assert (await client.post(worker.url + CHAT, json=STREAM)).status_code == 200
        assert worker.running == 0


async def test_a_hanging_worker_answers_nothing(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Hang(count=1)])
        with pytest.raises(httpx.ReadTimeout):
            await client.post(worker.url + CHAT, json=HI, timeout=BRIEF)
        assert worker.requests[CHAT] == 1
        assert (await client.post(worker.url + CHAT, json=HI)).status_code == 200


async def test_a_stream_stalls(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Stall(after_tokens=2)])
        lines: list[str] = []
        with pytest.raises(httpx.ReadTimeout):  # noqa: PT012  it stalls while it is read
            async with client.stream("POST", worker.url + CHAT, json=STREAM, timeout=BRIEF) as response:
                async for line in response.aiter_lines():
                    lines.append(line)
        assert len([line for line in lines if line]) == 3


async def test_connections_are_refused_and_then_taken_again(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Refuse(seconds=1.5)])
        with pytest.raises(httpx.ConnectError):
            await client.get(worker.url + "/health")

        async def healthy() -> bool:
            try:
                return (await client.get(worker.url + "/health")).status_code == 200
            except httpx.ConnectError:
                return False

        await auntil(healthy)
        worker.set_faults([faults.Refuse()])
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as fresh:
            with pytest.raises(httpx.ConnectError):
                await fresh.get(worker.url + "/health")
            worker.set_faults([])
            await auntil(lambda: worker.listening)
            assert (await fresh.get(worker.url + "/health")).status_code == 200


async def test_a_worker_that_refuses_can_reset_its_open_connections_too(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, tokens_per_second=100.0)) as (worker,):
        answer = asyncio.create_task(client.post(worker.url + CHAT, json={**STREAM, "max_tokens": 1000}))
        await auntil(lambda: worker.tokens > 3)
        worker.set_faults([faults.Refuse(reset=True)])
        with pytest.raises(httpx.TransportError):
            await answer
        await auntil(lambda: worker.running == 0)


async def test_a_frozen_worker_goes_on_where_it_was(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, tokens_per_second=100.0)) as (worker,):
        answer = asyncio.create_task(client.post(worker.url + CHAT, json=STREAM))
        await auntil(lambda: worker.tokens > 3)
        worker.set_faults([faults.Freeze(seconds=600)])
        await auntil(lambda: worker.frozen)
        before = worker.tokens
        with pytest.raises(httpx.ReadTimeout):
            await client.get(worker.url + "/health", timeout=BRIEF)
        assert worker.tokens == before
        worker.set_faults([faults.Freeze(seconds=0)])
        assert len(await events(await answer)) == 66


async def test_a_slow_worker_takes_longer_for_a_token(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, tokens_per_second=1000.0)) as (worker,):
        loop = asyncio.get_running_loop()
        worker.set_faults([faults.Slow(factor=20.0)])
        start = loop.time()
        await client.post(worker.url + CHAT, json={**HI, "max_tokens": 11})
        assert loop.time() - start >= 0.2


async def test_a_dead_engine(client: httpx.AsyncClient) -> None:
    async with workers(SLOW) as (worker,):
        streamed = asyncio.create_task(client.post(worker.url + CHAT, json=ENDLESS))
        await auntil(lambda: worker.tokens > 1)
        worker.set_faults([faults.Dead()])
        assert (await events(await streamed))[-1]["error"]["message"].startswith("EngineCore encountered an issue")
        refused = await client.post(worker.url + CHAT, json=HI)
        assert (refused.status_code, refused.json()["error"]["type"]) == (500, "InternalServerError")
        assert (await client.get(worker.url + "/health")).status_code == 503
        assert worker.running == 0


async def test_a_draining_worker_finishes_and_takes_nothing_new(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, tokens_per_second=200.0)) as (worker,):
        running = asyncio.create_task(client.post(worker.url + CHAT, json=STREAM))
        await auntil(lambda: worker.running == 1)
        worker.set_faults([faults.Draining()])
        refused = await client.post(worker.url + CHAT, json=HI)
        assert refused.json()["error"]["message"] == "cannot schedule new futures after shutdown"
        assert (await client.get(worker.url + "/health")).status_code == 200
        assert (await events(await running))[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_worker_dies_at_a_token_of_a_marked_request(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Die(after_tokens=3, marker="poison")])
        assert (await client.post(worker.url + CHAT, json=STREAM)).status_code == 200
        poison = {**STREAM, "messages": [{"role": "user", "content": "poison"}]}
        with pytest.raises(httpx.TransportError):
            await client.post(worker.url + CHAT, json=poison)
        with pytest.raises(httpx.ConnectError):
            await client.post(worker.url + CHAT, json=STREAM)
        assert worker.running == 0


@pytest.mark.parametrize("where", ["head", "chunk"])
async def test_garbage_breaks_http(client: httpx.AsyncClient, where: Any) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Garbage(where=where, after_tokens=2)])
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(worker.url + CHAT, json=STREAM)


async def test_garbage_in_an_event(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Garbage(after_tokens=2)])
        answer = await client.post(worker.url + CHAT, json=STREAM)
        assert b"not JSON" in answer.content
        assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_every_byte_by_itself() -> None:
    async with workers() as (worker,):
        worker.set_faults([faults.Split()])
        body = json.dumps({**STREAM, "max_tokens": 4}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(head % CHAT.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        sizes, whole = [], b""
        async with asyncio.timeout(30):
            while data := await reader.read(65536):
                sizes.append(len(data))
                whole += data
        writer.close()
        await writer.wait_closed()
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert len(sizes) > len(whole) / 20


async def test_admission_refuses_plainly_or_inside_the_stream(client: httpx.AsyncClient) -> None:
    """Requests that arrive together are all accepted; the excess ones get the error inside their 200."""
    async with workers(dataclasses.replace(SLOW, max_num_queued_reqs=2)) as (worker,):
        asked = {**STREAM, "max_tokens": 10, "ignore_eos": True}
        together = [asyncio.create_task(client.post(worker.url + CHAT, json=asked)) for _ in range(4)]
        await auntil(lambda: worker.running == 2)
        plain = await client.post(worker.url + CHAT, json=asked)
        assert (plain.status_code, plain.json()["error"]["type"]) == (503, "Service Unavailable")
        answers = await asyncio.gather(*together)
        inside = [answer for answer in answers if answer.status_code == 200 and b'"code": 503' in answer.content]
        served = [answer for answer in answers if b'"finish_reason":"length"' in answer.content]
        assert len(served) == 2
        assert len(inside) + len([answer for answer in answers if answer.status_code == 503]) == 2


async def test_sleep_aborts_and_hides_what_waits(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(SLOW, dev_mode=True)) as (worker,):
        running = asyncio.create_task(client.post(worker.url + CHAT, json=ENDLESS))
        await auntil(lambda: worker.tokens > 1)
        assert (await client.post(worker.url + "/sleep?level=1")).json() == {"status": "sleeping", "level": 1}
        assert (await events(await running))[-1]["choices"][0]["finish_reason"] == "abort"
        held = asyncio.create_task(client.post(worker.url + CHAT, json={**HI, "max_tokens": 2}))
        await auntil(lambda: worker.waiting == 1)
        page = (await client.get(worker.url + "/metrics")).text
        assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0' in page
        assert 'sleep_state="awake"} 0.0' in page
        await client.post(worker.url + "/wake_up")
        assert (await held).status_code == 200


async def test_sleep_ends_a_whole_answer_with_finish_reason_abort(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(SLOW, dev_mode=True)) as (worker,):
        running = asyncio.create_task(client.post(worker.url + CHAT, json=HI))
        await auntil(lambda: worker.tokens > 1)
        await client.post(worker.url + "/sleep")
        assert (await running).json()["choices"][0]["finish_reason"] == "abort"


async def test_sleep_with_mode_wait_answers_after_the_running_requests(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, tokens_per_second=100.0, dev_mode=True)) as (worker,):
        running = asyncio.create_task(
            client.post(worker.url + CHAT, json={**STREAM, "max_tokens": 100, "ignore_eos": True})
        )
        await auntil(lambda: worker.running == 1)
        sleeping = asyncio.create_task(client.post(worker.url + "/sleep?mode=wait&level=2"))
        await auntil(lambda: worker.requests["/sleep"] == 1)
        held = asyncio.create_task(client.post(worker.url + CHAT, json={**HI, "max_tokens": 2}))
        await auntil(lambda: worker.waiting == 1)
        assert not sleeping.done()
        assert (await client.get(worker.url + "/is_sleeping")).json() == {"is_sleeping": True}
        assert (await sleeping).json() == {"status": "sleeping", "level": 2}
        assert (await events(await running))[-1]["choices"][0]["finish_reason"] == "length"
        assert not held.done()
        await client.post(worker.url + "/wake_up")
        assert (await held).status_code == 200


async def test_sleep_with_mode_keep_freezes_the_running_requests(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, tokens_per_second=100.0, dev_mode=True)) as (worker,):
        running = asyncio.create_task(
            client.post(worker.url + CHAT, json={**STREAM, "max_tokens": 100, "ignore_eos": True})
        )
        await auntil(lambda: worker.tokens > 1)
        assert (await client.post(worker.url + "/sleep?mode=keep")).status_code == 200
        assert (worker.running, running.done()) == (1, False)
        assert (await client.post(worker.url + "/wake_up?tags=weights")).json() == {
            "status": "sleeping",
            "tags": ["weights"],
        }
        assert (await client.post(worker.url + "/wake_up?tags=kv_cache")).json()["status"] == "awake"
        assert (await events(await running))[-1]["choices"][0]["finish_reason"] == "length"


async def test_level_0_stops_scheduling_and_is_ended_by_its_tag(client: httpx.AsyncClient) -> None:
    async with workers(dataclasses.replace(FAST, dev_mode=True)) as (worker,):
        assert (await client.post(worker.url + "/sleep?level=0")).json() == {"status": "sleeping", "level": 0}
        assert (await client.get(worker.url + "/is_sleeping")).json() == {"is_sleeping": True}
        page = (await client.get(worker.url + "/metrics")).text
        for state in ("awake", "weights_offloaded", "discard_all"):
            assert f'sleep_state="{state}"}} 0.0' in page
        assert (await client.post(worker.url + "/wake_up?tags=scheduling")).json() == {
            "status": "awake",
            "tags": ["scheduling"],
        }
        assert (await client.get(worker.url + "/is_sleeping")).json() == {"is_sleeping": False}
        assert 'sleep_state="awake"} 1.0' in (await client.get(worker.url + "/metrics")).text


# --- as a process ---


def test_a_process_serves_counts_and_dies_by_its_script() -> None:
    with SimulatedProcess("--tokens-per-second", "1000", "--ttft", "0", "--dtype", "auto") as worker:
        assert "no model, no GPU" in worker.output
        assert "ignored, as nothing is loaded: --dtype auto" in worker.output
        assert httpx.post(worker.url + CHAT, json=HI, trust_env=False, verify=False, timeout=60).status_code == 200
        stats = worker.stats()
        assert stats["requests"] == {CHAT: 1}
        assert stats["tokens"] == 65
        worker.set_faults([faults.Die(after_tokens=2)])
        with pytest.raises(httpx.TransportError):
            httpx.post(worker.url + CHAT, json=STREAM, trust_env=False, verify=False, timeout=60)
        assert worker.wait() == 137


def test_a_process_drains_on_sigterm() -> None:
    with SimulatedProcess("--tokens-per-second", "50", "--ttft", "0", "--shutdown-timeout", "20") as worker:
        with httpx.stream(
            "POST", worker.url + CHAT, json=STREAM, trust_env=False, verify=False, timeout=60
        ) as response:
            lines = response.iter_lines()
            next(lines)
            worker.signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert worker.wait() == 0


def test_a_process_aborts_on_sigterm_where_no_grace_is_given() -> None:
    with SimulatedProcess("--tokens-per-second", "5", "--ttft", "0") as worker:
        with httpx.stream(
            "POST", worker.url + CHAT, json=STREAM, trust_env=False, verify=False, timeout=60
        ) as response:
            lines = response.iter_lines()
            next(lines)
            worker.signal(signal.SIGTERM)
            with pytest.raises(httpx.TransportError):
                list(lines)
        assert worker.wait() == 0


def test_a_process_can_be_stopped_before_it_listens() -> None:
    command = [*COMMAND, "m", "--port", "0", "--startup", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: handles(process.pid, signal.SIGTERM), 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.communicate() == (b"", b"")


def handles(pid: int, number: signal.Signals) -> bool:
    """Return True once the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_process_ignores_sigterm_while_that_fault_is_set() -> None:
    with SimulatedProcess(*IGNORE_SIGTERM) as worker:
        worker.signal(signal.SIGTERM)
        assert worker.stats()["running"] == 0
        worker.set_faults([])
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_process_exits_some_time_after_its_engine_died() -> None:
    with SimulatedProcess() as worker:
        worker.set_faults([faults.Dead(exit_after=5.0)])
        assert httpx.get(worker.url + "/health", trust_env=False, verify=False, timeout=60).status_code == 503
        assert worker.wait() == 137


def test_the_engine_process_ends_with_a_stopped_server_and_survives_a_killed_one() -> None:
    for number, survives in ((signal.SIGTERM, False), (signal.SIGKILL, True)):
        with SimulatedProcess("--engine-process") as worker:
            (engine,) = psutil.Process(worker.pid).children()
            worker.signal(number)
            worker.wait()
            assert engine.is_running() is survives
            if survives:
                engine.kill()


def test_a_port_in_use_is_one_clear_line() -> None:
    with SimulatedProcess() as first:
        command = ["--port", str(first.port)]
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{first.port}: "):
            SimulatedProcess(*command)


async def test_a_worker_that_was_stopped_leaves_nothing() -> None:
    worker = Simulated(FAST)
    await worker.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    await auntil(lambda: len(worker.connections) == 1)
    await worker.stop()
    await worker.stop()
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", worker.port)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()
    await auntil(lambda: not worker.connections)
