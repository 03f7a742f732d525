"""Settings of an entry of the routing file that change what its worker gets: system text, tools, limits on tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.entry_requests import (
    CALLERS,
    CHATS,
    GENERATED,
    WORDS,
    Asked,
    after_a_call,
    limits_of,
    long,
    most,
    with_system,
    with_tools,
)
from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import Request, is_whole
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.simulated.options import Options

TEXT = "Answer in rhymes, and never mention the weather."
TABLE = parse(
    f"""
models:
  plain: {{serve: tiny}}
  told: {{serve: tiny, system: "{TEXT}"}}
  brief: {{serve: tiny, limits: {{output: 5}}}}
  small: {{serve: tiny, limits: {{context: 100}}}}
  deaf: {{serve: tiny, tools: ignore}}
  heard: {{serve: ears, limits: {{output: 5}}}}
  vectors: {{serve: embedder, limits: {{context: 30}}}}
""".encode()
)
WORKERS = {
    "a": Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=40, slots=32),
    "b": Options(model="embedder", embedding=True, slots=32),
    "c": Options(model="ears", tokens_per_second=5000, ttft=0.001, answer_tokens=40, slots=32, transcription=True),
}
every = pytest.mark.parametrize("request_", GENERATED, ids=map(str, GENERATED))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, WORKERS, table=TABLE) as running:
        yield running


@pytest.mark.parametrize("request_", CHATS, ids=map(str, CHATS))
async def test_the_entrys_system_text_is_used_if_the_request_has_none(running: Fleet, request_: Request) -> None:
    asked = Asked(running)
    assert await asked.prompt(request_, "told") == await asked.prompt(request_, "plain", **with_system(request_, TEXT))
    own = with_system(request_, "Be brief.")
    assert await asked.prompt(request_, "told", **own) == await asked.prompt(request_, "plain", **own)
    assert await asked.prompt(request_, "told", **own) < await asked.prompt(request_, "told")


async def test_the_entrys_system_text_is_shown_as_a_modelfiles(running: Fleet) -> None:
    shown = (await running.http.post("/api/show", json={"model": "told"})).json()
    assert shown["system"] == TEXT
    assert f"SYSTEM {TEXT}\n" in shown["modelfile"]
    tags = {model["name"]: model["digest"] for model in (await running.http.get("/api/tags")).json()["models"]}
    assert tags["told:latest"] != tags["plain:latest"]  # some clients hide models with equal digests


@every
async def test_answers_are_cut_at_the_entrys_limit_and_never_refused(running: Fleet, request_: Request) -> None:
    asked = Asked(running)
    for fields in limits_of(request_):
        response, record = await asked.ask(request_, "brief", **fields)
        assert is_whole(request_, response), (fields, response.text)
        assert record["completion_tokens"] == 5, fields
    _, record = await asked.ask(request_, "brief", **most(request_, 3))
    assert record["completion_tokens"] == 3


async def test_transcripts_are_cut_at_the_entrys_limit(running: Fleet) -> None:
    files = {"file": ("a.wav", b"RIFF")}
    for data in ({}, {"max_completion_tokens": "30"}):
        response = await running.http.post(
            "/v1/audio/transcriptions",
            data={"model": "heard", **data},
            files=files,
            headers={"x-request-id": str(data)},
        )
        assert response.status_code == 200
    longer = await running.http.post("/v1/audio/transcriptions", data={"model": "ears"}, files=files)
    assert len(response.json()["text"]) < len(longer.json()["text"])


@every
async def test_a_prompt_beyond_the_entrys_context_is_shortened_or_refused_as_by_a_smaller_model(
    running: Fleet, request_: Request
) -> None:
    asked = Asked(running)
    response, record = await asked.ask(request_, "small", **long(request_))
    if request_.path.startswith("/api/"):
        assert is_whole(request_, response), response.text
        assert 0 < record["prompt_tokens"] <= 100
        refused, _ = await asked.ask(request_, "small", **long(request_), truncate=False)
        assert (refused.status_code, "longer than the context length" in refused.json()["error"]) == (400, True)
        return
    assert response.status_code == 400
    error = response.json()["error"]
    if request_.path == "/v1/messages":
        assert error["message"].endswith(" tokens > 100 maximum")
    else:
        assert error["message"].startswith("This model's maximum context length is 100 tokens.")
        assert error["code"] == "context_length_exceeded"


@every
async def test_prompt_and_answer_together_stay_within_the_entrys_context(running: Fleet, request_: Request) -> None:
    asked = Asked(running)
    for fields in ({}, most(request_, 5000)):
        if fields or request_.path != "/v1/messages":
            response, record = await asked.ask(request_, "small", **fields)
            assert is_whole(request_, response), response.text
            assert record["prompt_tokens"] + record["completion_tokens"] <= 100


async def test_the_entrys_context_is_shown(running: Fleet) -> None:
    shown = (await running.http.post("/api/show", json={"model": "small"})).json()
    assert shown["model_info"]["llama.context_length"] == 100
    running_models = (await running.http.get("/api/ps")).json()["models"]
    lengths = {model["name"]: model["context_length"] for model in running_models}
    assert (lengths["small:latest"], lengths["plain:latest"]) == (100, 8192)


async def test_texts_beyond_the_entrys_context_are_truncated_or_refused(running: Fleet) -> None:
    async def post(path: str, **fields: Any) -> httpx.Response:
        return await running.http.post(path, json={"model": "vectors", **fields})

    assert (await post("/api/embed", input=WORDS)).json()["prompt_eval_count"] == 30
    assert (await post("/api/embed", input=WORDS, truncate=False)).status_code == 400
    assert (await post("/v1/embeddings", input=WORDS, truncate_prompt_tokens=-1)).status_code == 200
    for path, fields in (
        ("/v1/embeddings", {"input": WORDS}),
        ("/v1/embeddings", {"input": ["short", WORDS]}),
        ("/v1/embeddings", {"input": [[5] * 31]}),
        ("/rerank", {"query": "q", "documents": ["short", WORDS]}),
        ("/score", {"text_1": "q", "text_2": WORDS}),
    ):
        response = await post(path, **fields)
        assert response.status_code == 400, path
        assert response.json()["error"]["code"] == "context_length_exceeded"
    for path, fields in (("/v1/embeddings", {"input": "hello"}), ("/rerank", {"query": "q", "documents": ["a"]})):
        assert (await post(path, **fields)).status_code == 200


callers = pytest.mark.parametrize("request_", CALLERS, ids=map(str, CALLERS))


@callers
async def test_tools_are_refused_by_default_and_dropped_if_the_entry_ignores_them(
    running: Fleet, request_: Request
) -> None:
    asked = Asked(running)
    refused, _ = await asked.ask(request_, "plain", **with_tools(request_))
    assert refused.status_code == 400
    assert "does not support tools" in refused.text
    assert await asked.prompt(request_, "deaf", **with_tools(request_)) == await asked.prompt(request_, "plain")


@callers
async def test_a_conversation_with_calls_stays_usable_if_tools_are_ignored(running: Fleet, request_: Request) -> None:
    asked = Asked(running)
    told = {**with_tools(request_), **after_a_call(request_)}
    assert await asked.prompt(request_, "deaf", **told) > await asked.prompt(request_, "deaf")


async def test_a_model_that_ignores_tools_is_not_shown_as_one_that_calls_them(running: Fleet) -> None:
    shown = (await running.http.post("/api/show", json={"model": "deaf"})).json()
    assert shown["capabilities"] == ["completion"]


MORE = parse(
    f"""
models:
  plain: {{serve: tiny}}
  "small*": {{serve: tiny, system: "{TEXT}", limits: {{context: 100, output: 20}}, aliases: [little]}}
  templated: {{serve: tiny, system: "{TEXT}", completions: templated, limits: {{context: 100}}}}
  spilling: {{serve: tiny, limits: {{context: 100}}, fallback: {{context: [plain]}}}}
""".encode()
)


@pytest.fixture
async def more(tmp_path: Path) -> AsyncIterator[Asked]:
    async with fleet(tmp_path, {"a": WORKERS["a"]}, table=MORE) as running:
        yield Asked(running)


GENERATE, TEXTS = (
    next(each for each in GENERATED if str(each) == path) for path in ("/api/generate", "/v1/completions")
)


@pytest.mark.parametrize(
    "fields",
    [{"raw": True}, {"context": [5] * 300}, {"options": {"num_ctx": 4000, "num_predict": -2}}],
    ids=["raw", "context", "num_ctx"],
)
async def test_every_form_of_a_generation_is_cut_at_the_entrys_context(more: Asked, fields: dict[str, Any]) -> None:
    response, record = await more.ask(GENERATE, "small:1b", prompt=WORDS, **fields)
    assert is_whole(GENERATE, response), response.text
    assert record["prompt_tokens"] + record["completion_tokens"] <= 100
    refused, _ = await more.ask(GENERATE, "small:1b", prompt=WORDS, truncate=False, **fields)
    assert (refused.status_code, "longer than the context length" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize("prompt", [[5] * 100, [[5] * 100, [6]], ["short", WORDS]], ids=["tokens", "lists", "texts"])
async def test_every_form_of_a_completions_prompt_is_refused_beyond_the_entrys_context(
    more: Asked, prompt: list[Any]
) -> None:
    refused, _ = await more.ask(TEXTS, "small", prompt=prompt)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    short, record = await more.ask(TEXTS, "small", prompt=[5] * 90, max_tokens=50)
    assert is_whole(TEXTS, short), short.text
    assert record["completion_tokens"] <= 10


async def test_a_templated_completion_gets_the_entrys_system_text_and_context(more: Asked) -> None:
    assert await more.prompt(TEXTS, "templated") > await more.prompt(TEXTS, "plain")
    refused, _ = await more.ask(TEXTS, "templated", prompt=WORDS)
    assert refused.status_code == 400


async def test_the_settings_of_a_pattern_apply_to_all_of_its_names_and_to_models_made_from_them(more: Asked) -> None:
    http = more.running.http
    made = {"model": "mine", "from": "small:1b", "system": "Be brief.", "stream": False}
    assert (await http.post("/api/create", json=made)).status_code == 200
    for name in ("small", "small:70b", "little", "mine"):
        response, record = await more.ask(GENERATE, name, options={"num_predict": 90})
        assert is_whole(GENERATE, response), response.text
        assert record["completion_tokens"] == 20, name
    told, explicit = with_system(GENERATE, "Be brief."), await more.prompt(GENERATE, "mine")
    assert explicit == await more.prompt(GENERATE, "plain", **told)
    assert (await http.post("/api/show", json={"model": "mine"})).json()["model_info"]["llama.context_length"] == 100


@every
async def test_a_prompt_beyond_the_entrys_context_goes_to_a_fallback(more: Asked, request_: Request) -> None:
    response, record = await more.ask(request_, "spilling", **long(request_))
    assert is_whole(request_, response), response.text
    assert record["prompt_tokens"] > 100


@pytest.mark.parametrize("prompt", [[5] * 100, [[5] * 100, [6]], ["short", WORDS]], ids=["tokens", "lists", "texts"])
async def test_every_form_of_a_completions_prompt_beyond_the_entrys_context_goes_to_a_fallback(
    more: Asked, prompt: list[Any]
) -> None:
    response, _ = await more.ask(TEXTS, "spilling", prompt=prompt)
    assert is_whole(TEXTS, response), response.text
