"""Transcriptions of a simulated worker."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.vllm.simulated import workers
from vllama_pool.workers.simulated import Options, faults

PATH = "/v1/audio/transcriptions"
WHISPER = Options(model="m", tokens_per_second=1000.0, ttft=0.0, answer_tokens=20, transcription=True)


def silence(seconds: float) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(int(seconds * 32_000)))
    return data.getvalue()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60.0) as made:
        yield made


async def transcribe(client: httpx.AsyncClient, url: str, **fields: str) -> httpx.Response:
    return await client.post(url + PATH, data={"model": "m", **fields}, files={"file": ("a.wav", silence(2.5))})


async def test_a_transcription_has_its_text_and_the_seconds_of_audio(client: httpx.AsyncClient) -> None:
    async with workers(WHISPER) as (worker,):
        for response_format in ("json", "text"):
            answer = (await transcribe(client, worker.url, response_format=response_format)).json()
            assert answer["text"].startswith("Simulated answer to: audio of")
            assert answer["usage"] == {"type": "duration", "seconds": 3}


async def test_a_verbose_transcription_has_segments(client: httpx.AsyncClient) -> None:
    async with workers(WHISPER) as (worker,):
        answer = (await transcribe(client, worker.url, response_format="verbose_json", language="en")).json()
    assert (answer["duration"], answer["language"]) == (2.5, "en")
    assert answer["segments"][0]["text"] == answer["text"]


async def test_a_streamed_transcription_is_the_whole_one_in_pieces(client: httpx.AsyncClient) -> None:
    async with workers(WHISPER) as (worker,):
        whole = (await transcribe(client, worker.url)).json()
        streamed = await transcribe(client, worker.url, stream="true", stream_include_usage="true")
    parts = streamed.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    events: list[dict[str, Any]] = [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]
    assert "".join(event["choices"][0]["delta"]["content"] for event in events[:-1]) == whole["text"]
    assert {event["object"] for event in events} == {"transcription.chunk"}
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"]["completion_tokens"] == 21


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"response_format": "srt"}, 400),
        ({"response_format": "bogus"}, 400),
        ({"response_format": "verbose_json", "stream": "true"}, 400),
        ({"stream_include_usage": "true"}, 400),
        ({"model": "nope"}, 404),
    ],
)
async def test_an_invalid_transcription_is_refused(
    client: httpx.AsyncClient, fields: dict[str, str], status: int
) -> None:
    async with workers(WHISPER) as (worker,):
        assert (await transcribe(client, worker.url, **fields)).status_code == status
        assert (await client.post(worker.url + PATH, data={"model": "m"})).status_code == 400


async def test_faults_apply_to_transcriptions(client: httpx.AsyncClient) -> None:
    async with workers(WHISPER) as (worker,):
        worker.set_faults([faults.Cut(after_tokens=3, count=1), faults.Error(after_tokens=2, count=1)])
        with pytest.raises(httpx.RemoteProtocolError):
            await transcribe(client, worker.url, stream="true")
        streamed = await transcribe(client, worker.url, stream="true")
    assert streamed.text.count('"delta"') == 2
    assert 'data: {"error": ' in streamed.text


async def test_only_a_worker_for_it_transcribes(client: httpx.AsyncClient) -> None:
    async with workers() as (worker,):
        assert (await transcribe(client, worker.url)).status_code == 404
