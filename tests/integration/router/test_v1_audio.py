"""Transcriptions through a live router to simulated workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

PATH = "/v1/audio/transcriptions"
WHISPER = Options(model="whisper", transcription=True, tokens_per_second=2000, ttft=0.0, answer_tokens=8)
TABLE = routing_table(models={"org/ears": {"serve": "whisper"}, "out": {"serve": "nothing"}})
AUDIO = ("../a b.wav", b"RIFF\0\0\r\n--", "audio/wav")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"a": WHISPER, "b": WHISPER, "chat": Options(model="chat"), "e": Options(model="minilm", embedding=True)}
    async with fleet(tmp_path_factory.mktemp("state"), workers, table=TABLE) as made:
        yield made


def received(running: Fleet) -> int:
    return sum(running[name].requests[PATH] for name in running.workers)


async def transcribe(running: Fleet, file: Any = AUDIO, **fields: str) -> httpx.Response:
    return await running.http.post(PATH, data={"model": "whisper", **fields}, files={"file": file} if file else None)


async def refusal(running: Fleet, status: int, file: Any = AUDIO, **fields: str) -> dict[str, Any]:
    """Return an error that no worker has seen."""
    before = received(running)
    response = await transcribe(running, file, **fields)
    assert response.status_code == status, response.text
    assert received(running) == before
    found: dict[str, Any] = response.json()["error"]
    return found


@pytest.mark.rule(33, 119)
@pytest.mark.parametrize("name", ["whisper", "Whisper:latest", "org/ears"])
async def test_a_recording_becomes_text_under_every_name(running: Fleet, name: str) -> None:
    found = await transcribe(running, model=name, language="en", prompt="A greeting.")
    assert found.status_code == 200, found.text
    assert found.json()["text"]
    assert found.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.rule(119)
async def test_a_recording_becomes_plain_text_or_subtitles(running: Fleet) -> None:
    text = (await transcribe(running)).json()["text"]
    plain = await transcribe(running, response_format="text")
    assert (plain.text, plain.headers["content-type"]) == (f"{text}\n", "text/plain; charset=utf-8")
    assert (await transcribe(running, response_format="srt")).text.startswith("1\n00:00:00,000 --> 00:00:0")
    assert (await transcribe(running, response_format="vtt")).text.startswith("WEBVTT\n\n00:00:00.000 --> ")
    verbose = await transcribe(running, response_format="verbose_json")
    assert verbose.json()["segments"][0]["text"]


async def test_a_stream_has_the_clients_name_and_the_usage_is_logged(running: Fleet) -> None:
    headers = {"x-request-id": "audio-stream"}
    fields = {"model": "org/ears", "stream": "true"}
    async with running.http.stream("POST", PATH, data=fields, files={"file": AUDIO}, headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(each) for each in events[:-1]]
    assert {each["model"] for each in chunks} == {"org/ears"}
    *chunks, last = chunks
    assert all(each["choices"] for each in chunks)  # the usage was not asked for
    text = "".join(each["choices"][0]["delta"]["content"] for each in chunks)
    assert (last["type"], last["text"]) == ("transcript.text.done", text)
    assert "".join(each["delta"] for each in chunks) == text
    assert text == (await transcribe(running)).json()["text"]
    record = await running.record("audio-stream")
    assert (record["operation"], record["completion_tokens"] > 0) == ("v1 transcriptions", True)


async def test_a_large_file_reaches_a_second_worker_when_the_first_is_lost(running: Fleet) -> None:
    large = ("a.wav", bytes(20 * 2**20), "audio/wav")
    running["a"].set_faults([faults.Status(status=503)])
    try:
        for _ in range(3):
            found = await transcribe(running, large)
            assert found.status_code == 200, found.text
    finally:
        running["a"].set_faults([])


async def test_a_worker_lost_in_mid_stream_ends_the_stream_with_an_error(running: Fleet) -> None:
    for name in ("a", "b"):
        running[name].set_faults([faults.Cut(after_tokens=3)])
    try:
        found = await transcribe(running, stream="true")
    finally:
        for name in ("a", "b"):
            running[name].set_faults([])
    last = json.loads(found.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["type"] == "api_error"
    assert "[DONE]" not in found.text


@pytest.mark.rule(119, 146)
async def test_incomplete_forms_reach_no_worker(running: Fleet) -> None:
    assert (await refusal(running, 400, model=""))["message"] == "model is required"
    assert (await refusal(running, 400, ("a.wav", b"")))["message"] == "audio file is empty"
    response = await running.http.post(PATH, files={"model": (None, "whisper")})
    assert (response.status_code, response.json()["error"]["message"][:18]) == (400, "file is required: ")
    for content, kind in (
        (b'{"model":"whisper"}', "application/json"),
        (b"model=whisper", "application/x-www-form-urlencoded"),
        (b"--b--", "multipart/form-data"),
        (b"nonsense", "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (b"", ""),
    ):
        response = await running.http.post(PATH, content=content, headers={"content-type": kind})
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_files_over_25_mib_and_server_fields_reach_no_worker(running: Fleet) -> None:
    large = await refusal(running, 413, ("a.wav", bytes(25 * 2**20 + 1)))
    assert large["message"] == "the file 'file' is larger than 25 MiB; send it in parts"
    assert (await refusal(running, 400, vllm_xargs='{"a":1}'))["code"] == "unsupported_parameter"
    assert (await refusal(running, 400, temperature="warm"))["param"] == "temperature"


@pytest.mark.parametrize("name", ["chat", "minilm"])
async def test_a_model_without_ears_is_refused_with_the_kind_that_is_needed(running: Fleet, name: str) -> None:
    error = await refusal(running, 400, model=name)
    assert error["message"] == f'"{name}" does not support transcription: use a speech-to-text model, such as Whisper'


@pytest.mark.rule(119, 148)
async def test_unknown_and_absent_models_are_reported(running: Fleet) -> None:
    assert (await refusal(running, 404, model="nope"))["message"] == "model 'nope' not found"
    assert (await refusal(running, 503, model="out"))["type"] == "api_error"


async def test_a_route_that_the_worker_lacks_is_explained(running: Fleet) -> None:
    """The simulated worker has no translations."""
    response = await running.http.post("/v1/audio/translations", data={"model": "whisper"}, files={"file": AUDIO})
    assert response.status_code == 400
    assert "speech-to-text model" in response.json()["error"]["message"]
