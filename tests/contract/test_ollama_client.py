"""The official Python client against a live router."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import ollama
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.config.api_keys import digest
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

OPTIONS = Options(model="Qwen/Qwen3-8B", tokens_per_second=500, ttft=0.01, answer_tokens=12, per_request_metrics=True)
TABLE = routing_table(
    models={"friendly:8b": {"serve": "Qwen/Qwen3-8B", "aliases": ["short"], "options": {"temperature": 0.5}}}
)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": OPTIONS, "b": OPTIONS}, table=TABLE) as running:
        yield running


@pytest.fixture
async def client(running: Fleet) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=running.url)
    yield client
    await client._client.aclose()


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "qwen/qwen3-8b:latest", "friendly:8b", "FRIENDLY:8B", "short"])
async def test_chat_accepts_every_name_of_a_model(client: ollama.AsyncClient, name: str) -> None:
    whole = await client.chat(name, messages=HELLO)
    assert whole.model == name
    assert whole.message.role == "assistant"
    assert whole.done_reason == "stop"
    for duration in (whole.total_duration, whole.load_duration, whole.prompt_eval_duration, whole.eval_duration):
        assert duration is not None
        assert duration > 0
    streamed = [part async for part in await client.chat(name, messages=HELLO, stream=True)]
    assert "".join(part.message.content or "" for part in streamed) == whole.message.content
    assert [part.done for part in streamed][-2:] == [False, True]


async def test_generate_gives_the_same_text_streamed_and_whole(client: ollama.AsyncClient) -> None:
    whole = await client.generate("friendly:8b", prompt="hello")
    streamed = [part async for part in await client.generate("friendly:8b", prompt="hello", stream=True)]
    assert "".join(part.response for part in streamed) == whole.response
    assert whole.context


async def test_num_predict_limits_a_chat_of_several_turns(client: ollama.AsyncClient) -> None:
    answer = await client.chat(
        "friendly:8b",
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ],
        options={"temperature": 0, "num_predict": 4, "num_ctx": 8192, "mirostat": 1},
    )
    assert answer.eval_count == 4
    assert answer.done_reason == "length"


async def test_list_and_ps_merge_replicas_and_fill_every_field(client: ollama.AsyncClient) -> None:
    listed = {model.model: model for model in (await client.list()).models}
    assert set(listed) == {"friendly:8b", "Qwen/Qwen3-8B:latest"}
    for model in listed.values():
        assert re.fullmatch("[0-9a-f]{64}", model.digest or "")
        assert model.size == 1000
        assert model.modified_at is not None
        assert model.details is not None
        assert model.details.family == "llama"
    loaded = (await client.ps()).models
    assert {model.model for model in loaded} == set(listed)
    assert {model.size_vram for model in loaded} == {1000}
    assert {model.context_length for model in loaded} == {8192}


async def test_show_fills_the_fields_that_clients_read(client: ollama.AsyncClient) -> None:
    shown = await client.show("short")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.parameters is not None
    assert "temperature" in shown.parameters


async def test_an_unknown_model_raises_with_ollamas_text(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as raised:
        await client.chat("nope", messages=HELLO)
    assert raised.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="model 'nope:latest' not found"):
        await client.show("nope")


async def test_a_stream_that_breaks_off_raises_in_the_client(running: Fleet, client: ollama.AsyncClient) -> None:
    for name in running.workers:
        running[name].set_faults([faults.Cut(after_tokens=3)])
    stream = await client.chat("short", messages=HELLO, stream=True)
    assert (await anext(stream)).message.content  # type: ignore[call-overload]
    with pytest.raises(ollama.ResponseError):
        [part async for part in stream]


async def test_sixteen_concurrent_chats_succeed(client: ollama.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.chat("short", messages=HELLO) for _ in range(16)))
    assert len({answer.message.content for answer in answers}) == 1


async def test_closing_a_stream_early_frees_the_worker(running: Fleet, client: ollama.AsyncClient) -> None:
    for name in running.workers:
        running[name].set_faults([faults.Slow(factor=100)])
    stream = await client.chat("short", messages=HELLO, stream=True)
    assert not (await anext(stream)).done  # type: ignore[call-overload]
    assert running["a"].running + running["b"].running == 1
    await stream.aclose()  # type: ignore[attr-defined]
    await auntil(lambda: running["a"].running + running["b"].running == 0, 10, "the worker to be free")
    assert running["a"].aborted + running["b"].aborted == 1


async def test_a_client_with_a_key_knows_the_models_of_its_team_only(tmp_path: Path) -> None:
    table = routing_table(
        models={"ours": {"serve": "Qwen/Qwen3-8B"}, "theirs": {"serve": "Qwen/Qwen3-8B"}},
        teams={"blue": {"models": ["ours"]}},
        keys={"anna": {"sha256": digest("annas-key").hex(), "team": "blue"}},
    )
    async with fleet(tmp_path, {"a": OPTIONS}, table=table) as running:
        client = ollama.AsyncClient(host=running.url, headers={"Authorization": "Bearer annas-key"})
        assert (await client.chat("ours", messages=HELLO)).done
        assert [model.model for model in (await client.list()).models] == ["ours:latest"]
        assert [model.model for model in (await client.ps()).models] == ["ours:latest"]
        assert (await client.show("ours")).capabilities == ["completion"]
        for name in ("theirs", "Qwen/Qwen3-8B", "nope"):
            short = name if ":" in name else f"{name}:latest"
            with pytest.raises(ollama.ResponseError, match=f"model '{name}' not found") as raised:
                await client.chat(name, messages=HELLO)
            assert raised.value.status_code == 404
            with pytest.raises(ollama.ResponseError, match=f"model '{short}' not found"):
                await client.show(name)
            with pytest.raises(ollama.ResponseError, match="not found"):
                await client.copy(name, "mine")
            with pytest.raises(ollama.ResponseError, match="not found"):
                await client.delete(name)
        await client.create("mine", from_="ours", system="s")
        assert {model.model for model in (await client.list()).models} == {"ours:latest", "mine:latest"}
        await client.delete("mine")
        await client._client.aclose()
