"""The official Python client creates, copies, deletes and pulls models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.workers.simulated.options import Options

OPTIONS = Options(model="Qwen/Qwen3-8B", tokens_per_second=500, ttft=0.01, answer_tokens=5, aliases=("tuned",))
TABLE = routing_table(models={"friendly:8b": {"serve": "Qwen/Qwen3-8B", "options": {"temperature": 0.5}}})
HELLO = [{"role": "user", "content": "hello"}]
DIGEST = "a" * 64


SERVED = {"friendly:8b", "Qwen/Qwen3-8B:latest"}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("state"), {"a": OPTIONS}, table=TABLE) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def running(shared: Fleet) -> AsyncIterator[Fleet]:
    """A router without virtual models: those that the test creates are deleted after it."""
    yield shared
    for name in await names(shared) - SERVED:
        await shared.http.request("DELETE", "/api/delete", json={"model": name})
    assert await names(shared) == SERVED


@pytest_asyncio.fixture(loop_scope="module")
async def client(running: Fleet) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=running.url)
    yield client
    await client._client.aclose()


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def statuses(response: httpx.Response) -> list[str]:
    return [line["status"] for line in lines(response)]


@pytest.mark.rule(15, 108)
async def test_a_created_model_is_listed_and_answers(client: ollama.AsyncClient) -> None:
    made = await client.create(
        "Mario",
        from_="friendly:8b",
        system="You are Mario.",
        parameters={"temperature": 0.1, "stop": ["!"]},
        messages=[ollama.Message(role="user", content="who?"), ollama.Message(role="assistant", content="me")],
        license="free",
    )
    assert made.status == "success"
    listed = {model.model: model for model in (await client.list()).models}
    assert set(listed) == {"friendly:8b", "Qwen/Qwen3-8B:latest", "Mario:latest"}
    assert (await client.chat("mario", messages=HELLO)).message.content
    assert (await client.generate("MARIO:latest", prompt="hello")).response
    shown = await client.show("mario")
    assert shown.parameters is not None
    assert "0.1" in shown.parameters
    assert '"!"' in shown.parameters


@pytest.mark.rule(107)
async def test_a_streamed_create_sends_ollamas_statuses(running: Fleet, client: ollama.AsyncClient) -> None:
    parts = [part.status async for part in await client.create("v", from_="friendly:8b", system="s", stream=True)]
    assert parts[0] == f"using existing layer sha256:{DIGEST}"
    assert parts[1] is not None
    assert parts[1].startswith("creating new layer sha256:")
    assert parts[2:] == ["writing manifest", "success"]
    raw = await running.http.post("/api/create", json={"model": "w", "from": "v", "parameters": {"seed": 1}})
    assert raw.headers["content-type"] == "application/x-ndjson"
    again = statuses(raw)
    assert again[:2] == [parts[0], parts[1].replace("creating new", "using existing")]
    assert again[2].startswith("creating new layer sha256:")


@pytest.mark.rule(107)
async def test_create_refuses_invalid_requests_in_ollamas_words(running: Fleet) -> None:
    async def refused(**body: Any) -> tuple[int, str]:
        answer = await running.http.post("/api/create", json=body)
        return answer.status_code, answer.json()["error"]

    assert await refused(model="v") == (400, "neither 'from' or 'files' was specified")
    assert await refused(model="bad name", **{"from": "friendly:8b"}) == (400, "invalid model name")
    assert await refused(**{"from": "friendly:8b"}) == (400, "invalid model name")
    assert await refused(model="v", **{"from": "bad name"}) == (400, "invalid model name")
    assert await refused(model="v", files={"m.gguf": "sha256:12"}) == (400, "invalid digest format")
    assert await refused(model="v", files={"/m.gguf": f"sha256:{DIGEST}"}) == (400, "file path must be relative")
    assert await refused(model="v", files={"a/../m.gguf": f"sha256:{DIGEST}"}) == (400, "file path must be relative")
    status, text = await refused(model="v", parameters={"temperature": "hot"}, **{"from": "friendly:8b"})
    assert (status, text) == (400, 'option "temperature" must be of type float32')
    status, _ = await refused(model="v", messages=[{"role": "user", "content": 5}], **{"from": "friendly:8b"})
    assert status == 400
    assert (await running.http.post("/api/create", content=b"")).json() == {"error": "missing request body"}
    assert "v:latest" not in await names(running)


@pytest.mark.rule(37, 108)
@pytest.mark.parametrize(
    "field",
    [
        {"files": {"m.gguf": f"sha256:{DIGEST}"}},
        {"adapters": {"a.safetensors": f"sha256:{DIGEST}"}},
        {"draft_files": {"d.gguf": f"sha256:{DIGEST}"}},
        {"template": "{{ .Prompt }}"},
        {"quantize": "q4_K_M"},
        {"quantization": "q4_0"},
        {"draft_quantize": "q4_0"},
        {"renderer": "x"},
        {"parser": "x"},
    ],
)
async def test_create_fields_without_a_counterpart_in_vllm_are_501(running: Fleet, field: dict[str, Any]) -> None:
    answer = await running.http.post("/api/create", json={"model": "v", "from": "friendly:8b", **field})
    assert answer.status_code == 501
    text = answer.json()["error"]
    assert ":" in text
    assert not any(word in text for word in ("not found", "unauthorized"))


@pytest.mark.rule(15)
async def test_create_from_an_unknown_model_fails_as_its_pull_does(running: Fleet, client: ollama.AsyncClient) -> None:
    body = {"model": "v", "from": "nope"}
    streamed = await running.http.post("/api/create", json=body)
    assert streamed.status_code == 200
    assert lines(streamed) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist") as raised:
        await client.create("v", from_="nope")
    assert raised.value.status_code == 500
    assert (await running.http.post("/api/create", json={"model": "v", "from": "big:cloud"})).status_code == 403


async def test_names_of_routes_and_of_served_models_cannot_be_changed(
    client: ollama.AsyncClient, running: Fleet
) -> None:
    await client.create("v", from_="friendly:8b", system="s")
    for name in ("friendly:8b", "FRIENDLY:8b", "Qwen/Qwen3-8B", "tuned"):
        for change in (
            client.create(name, from_="v"),
            client.copy("v", name),
            client.delete(name),
        ):
            with pytest.raises(ollama.ResponseError, match=r"routing file|served by vLLM workers") as raised:
                await change
            assert raised.value.status_code == 403
    assert await names(running) == {"friendly:8b", "Qwen/Qwen3-8B:latest", "v:latest"}


@pytest.mark.rule(18)
async def test_a_copy_survives_the_deletion_of_its_source(running: Fleet, client: ollama.AsyncClient) -> None:
    answer = await running.http.post("/api/copy", json={"source": "tuned", "destination": "second"})
    assert (answer.status_code, answer.content) == (200, b"")
    await client.create("v", from_="second", system="s")
    assert (await client.copy("v", "third")).status == "success"
    assert (await client.delete("v")).status == "success"
    assert await names(running) == {"friendly:8b", "Qwen/Qwen3-8B:latest", "second:latest", "third:latest"}
    assert (await client.chat("third", messages=HELLO)).message.content


@pytest.mark.rule(18)
async def test_a_copy_onto_itself_is_a_no_op(running: Fleet) -> None:
    for name, same in (("friendly:8b", "Friendly:8b"), ("nope", "nope:latest")):
        answer = await running.http.post("/api/copy", json={"source": name, "destination": same})
        assert (answer.status_code, answer.content) == (200, b"")
    assert await names(running) == {"friendly:8b", "Qwen/Qwen3-8B:latest"}


@pytest.mark.rule(11)
@pytest.mark.trap(12)
async def test_a_created_model_can_be_deleted_by_model_or_name(running: Fleet, client: ollama.AsyncClient) -> None:
    for key in ("model", "name"):
        await client.create("v", from_="friendly:8b", system="s")
        body = {"model": "", key: "V"}
        answer = await running.http.request("DELETE", "/api/delete", json=body)
        assert (answer.status_code, answer.content) == (200, b"")
        with pytest.raises(ollama.ResponseError, match="model 'v' not found"):
            await client.chat("v", messages=HELLO)
    with pytest.raises(ollama.ResponseError, match="model 'v' not found") as raised:
        await client.delete("v")
    assert raised.value.status_code == 404


@pytest.mark.rule(6, 103)
@pytest.mark.parametrize("name", ["friendly:8b", "Qwen/Qwen3-8B", "qwen/qwen3-8b:latest", "tuned"])
async def test_pulling_a_served_model_succeeds_at_once(running: Fleet, client: ollama.AsyncClient, name: str) -> None:
    parts = [part async for part in await client.pull(name, stream=True)]
    assert [part.status for part in parts] == [
        "pulling manifest",
        "pulling aaaaaaaaaaaa",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert (parts[1].digest, parts[1].total, parts[1].completed) == (f"sha256:{DIGEST}", 1000, 1000)
    raw = await running.http.post("/api/pull", json={"model": "", "name": name, "insecure": True})
    assert raw.headers["content-type"] == "application/x-ndjson"


@pytest.mark.rule(6)
async def test_pulling_a_virtual_model_succeeds(client: ollama.AsyncClient) -> None:
    await client.create("v", from_="friendly:8b", system="s")
    assert (await client.pull("v")).status == "success"


@pytest.mark.rule(105, 106)
@pytest.mark.parametrize("name", ["nope", "friendly", "x:cloud", "x:8b-cloud"])
async def test_pulling_an_unknown_or_cloud_model_fails(running: Fleet, client: ollama.AsyncClient, name: str) -> None:
    streamed = await running.http.post("/api/pull", json={"model": name})
    assert streamed.status_code == 200
    assert lines(streamed) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist") as raised:
        await client.pull(name)
    assert raised.value.status_code == 500


@pytest.mark.rule(85)
async def test_system_text_and_messages_of_a_virtual_model_reach_the_worker(
    client: ollama.AsyncClient, running: Fleet
) -> None:
    remembered = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the plumber"}]
    await client.create("v", from_="friendly:8b", system="You are Mario.", messages=remembered)
    body = {"model": "v", "messages": HELLO, "_debug_render_only": True}
    rendered = (await running.http.post("/api/chat", json=body)).json()["_debug_info"]["rendered_template"]
    places = [rendered.index(text) for text in ("You are Mario.", "who?", "the plumber", "hello")]
    assert places == sorted(places)


async def test_ps_lists_a_virtual_model_after_its_first_use(client: ollama.AsyncClient) -> None:
    await client.create("used", from_="friendly:8b", system="s")
    loaded = {model.model for model in (await client.ps()).models}
    assert loaded == {"friendly:8b", "Qwen/Qwen3-8B:latest"}
    await client.chat("used", messages=HELLO)
    assert {model.model for model in (await client.ps()).models} == loaded | {"used:latest"}
    await client.generate("used", prompt="", keep_alive=0)
    assert {model.model for model in (await client.ps()).models} == loaded


async def test_model_writes_can_be_disabled(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": OPTIONS}, table=TABLE, model_writes=False) as running:
        for method, path, body in (
            ("POST", "/api/create", {"model": "v", "from": "friendly:8b"}),
            ("POST", "/api/copy", {"source": "friendly:8b", "destination": "v"}),
            ("DELETE", "/api/delete", {"model": "friendly:8b"}),
        ):
            answer = await running.http.request(method, path, json=body)
            assert answer.status_code == 403
            assert "VLLAMA_MODEL_WRITES" in answer.json()["error"]
        assert (await running.http.post("/api/pull", json={"model": "friendly:8b"})).status_code == 200


async def names(running: Fleet) -> set[str]:
    return {model["name"] for model in (await running.http.get("/api/tags")).json()["models"]}
