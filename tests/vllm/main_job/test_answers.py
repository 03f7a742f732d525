"""Answers to Ollama's Python client from real vLLM."""

from __future__ import annotations

import base64
import json
import math
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from deploy.local.run import CPU_CONTEXT
from deploy.local.setup import ROOT, SMOLLM2_TEMPLATE
from tests.support.fleet.main_job import MODEL, PLAIN, SLOTS, Fleet
from tests.support.until import until
from tests.support.vllm.weather_tool import TOOL

SUM = [{"role": "user", "content": "What is 2+2?"}]
EXACT = {"temperature": 0}
OPEN_WEBUI_TOOLS = json.loads((ROOT / "tests" / "data" / "open-webui-tools.json").read_text())
"""The 36 tools that Open WebUI 0.12 sends with every chat. Of each description only the first sentence is kept."""


@pytest.fixture
def client(fleet: Fleet) -> Iterator[ollama.Client]:
    client = ollama.Client(host=fleet.url, trust_env=False, timeout=300)
    yield client
    client._client.close()


def test_an_unstreamed_chat_has_the_answer_counts_and_durations(client: ollama.Client) -> None:
    answer = client.chat(MODEL, messages=SUM, options=EXACT)
    assert "4" in (answer.message.content or "")
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    assert answer.prompt_eval_count
    assert answer.eval_count
    for duration in (answer.total_duration, answer.load_duration, answer.prompt_eval_duration, answer.eval_duration):
        assert duration is not None
        assert 0 < duration < 300e9


def test_a_streamed_chat_equals_the_unstreamed_one(client: ollama.Client) -> None:
    whole = client.chat(MODEL, messages=SUM, options=EXACT)
    parts = list(client.chat(MODEL, messages=SUM, options=EXACT, stream=True))
    text = "".join(part.message.content or "" for part in parts)
    assert "4" in text
    assert text == whole.message.content
    assert len(parts) > 3
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].eval_count, parts[-1].prompt_eval_count) == (whole.eval_count, whole.prompt_eval_count)


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_with_the_tools_of_open_webui_is_answered_without_a_call(
    client: ollama.Client, stream: bool
) -> None:
    chat = {"messages": SUM, "tools": OPEN_WEBUI_TOOLS, "options": EXACT}
    parts = list(client.chat(MODEL, **chat, stream=True)) if stream else [client.chat(MODEL, **chat)]
    assert "4" in "".join(part.message.content or "" for part in parts)
    assert not any(part.message.tool_calls for part in parts)
    assert parts[-1].done_reason == "stop"
    assert 1000 < (parts[-1].prompt_eval_count or 0) < CPU_CONTEXT // 2, "the tools are in the prompt, in short"


def test_a_chat_with_several_turns_equals_the_one_of_vllm_itself(fleet: Fleet, client: ollama.Client) -> None:
    turns = [
        {"role": "system", "content": "You are a friendly assistant."},
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Hello Alice, how can I help you?"},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = client.chat(MODEL, messages=turns, options={**EXACT, "num_predict": 20})
    body = {"model": MODEL, "messages": turns, "temperature": 0, "max_tokens": 20}
    worker = fleet.workers()["smollm2-0"]["url"]
    own = httpx.post(f"{worker}/v1/chat/completions", json=body, trust_env=False, timeout=300).json()
    assert answer.prompt_eval_count == own["usage"]["prompt_tokens"], "all turns are in the prompt"
    assert answer.message.content == own["choices"][0]["message"]["content"], "vLLM itself says the same"


def test_streamed_generate_equals_the_unstreamed_one(client: ollama.Client) -> None:
    whole = client.generate(MODEL, prompt="What is 2+2?", options=EXACT)
    assert "4" in whole.response, "the prompt goes through the chat template"
    parts = list(client.generate(MODEL, prompt="What is 2+2?", options=EXACT, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")
    assert whole.context


def test_raw_generate_continues_the_text_without_a_template(client: ollama.Client) -> None:
    answer = client.generate(MODEL, prompt="1, 2, 3, 4, 5, 6,", raw=True, options={**EXACT, "num_predict": 8})
    assert answer.response.strip().startswith("7, 8")
    assert (answer.eval_count, answer.done_reason) == (8, "length")


COUNT = [{"role": "user", "content": "Count from one to ten."}, {"role": "assistant", "content": "one, two, three,"}]
OPENED = "Count from one to ten.<|im_end|>\n<|im_start|>assistant\n"
"""The end of the rendered prompt before the assistant's message."""


def rendered(fleet: Fleet, **fields: Any) -> str:
    body = {"model": MODEL, "_debug_render_only": True, **fields}
    answer = httpx.post(f"{fleet.url}/api/chat", json=body, trust_env=False, timeout=300).raise_for_status()
    return str(answer.json()["_debug_info"]["rendered_template"])


@pytest.mark.parametrize("fields", [{}, {"think": False}, {"tools": [TOOL]}], ids=["plain", "think", "tools"])
def test_an_assistant_message_at_the_end_is_continued(
    fleet: Fleet, client: ollama.Client, fields: dict[str, Any]
) -> None:
    prompt = rendered(fleet, messages=COUNT, **fields)
    assert prompt.endswith(OPENED + "one, two, three,")
    assert ("get_weather(" in prompt) == ("tools" in fields)
    options = {**EXACT, "num_predict": 12}
    raw = client.generate(MODEL, prompt=prompt, raw=True, options=options)
    whole = client.chat(MODEL, messages=COUNT, options=options, **fields)
    parts = list(client.chat(MODEL, messages=COUNT, options=options, stream=True, **fields))
    assert "four" in raw.response
    assert whole.message.content == "".join(part.message.content or "" for part in parts) == raw.response


@pytest.mark.parametrize("thinking", ["", "They count."])
def test_an_empty_assistant_message_at_the_end_begins_the_answer(
    fleet: Fleet, client: ollama.Client, thinking: str
) -> None:
    messages = [COUNT[0], {"role": "assistant", "content": "", "thinking": thinking}]
    assert rendered(fleet, messages=messages).endswith(OPENED)
    options = {**EXACT, "num_predict": 12}
    answers = [client.chat(MODEL, messages=turns, options=options) for turns in (messages, COUNT[:1])]
    assert answers[0].message.content == answers[1].message.content


def test_what_the_model_cannot_do_is_refused_in_a_continued_chat_too(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        client.chat(MODEL, messages=COUNT, think=True)
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat(MODEL, messages=[COUNT[0], {**COUNT[1], "images": [image]}])
    assert raised.value.status_code == 400


def test_tags_and_ps_report_size_digest_and_date_of_the_model_files(client: ollama.Client, smollm2: Path) -> None:
    weights = smollm2 / "model.safetensors"
    parameters = count_parameters(weights)
    listed = {model.model: model for model in client.list().models}
    assert set(listed) == {MODEL, f"{PLAIN}:latest"}
    tag = listed[MODEL]
    loaded = next(model for model in client.ps().models if model.model == MODEL)
    assert tag.size == loaded.size == loaded.size_vram == weights.stat().st_size
    assert tag.digest == loaded.digest
    assert len(tag.digest or "") == 64
    assert tag.digest != listed[f"{PLAIN}:latest"].digest
    assert tag.details is not None
    assert tag.details.parameter_size == f"{parameters / 1e6:.2f}M"
    assert (tag.details.format, tag.details.family, tag.details.quantization_level) == ("safetensors", "llama", "BF16")
    assert loaded.context_length == CPU_CONTEXT
    newest = max(file.stat().st_mtime for file in smollm2.iterdir() if file.suffix in (".safetensors", ".json"))
    assert tag.modified_at is not None
    assert tag.modified_at.timestamp() == pytest.approx(newest, abs=2)


def test_show_reports_template_and_architecture_of_the_model_files(client: ollama.Client, smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "tools"]
    assert shown.template == (smollm2 / "chat_template.jinja").read_text() == SMOLLM2_TEMPLATE.read_text()
    facts = dict(shown.modelinfo or {})
    assert facts["general.architecture"] == config["model_type"]
    assert facts["general.parameter_count"] == count_parameters(smollm2 / "model.safetensors")
    assert facts["llama.context_length"] == CPU_CONTEXT
    assert facts["llama.embedding_length"] == config["hidden_size"]
    assert facts["llama.block_count"] == config["num_hidden_layers"]
    assert facts["llama.attention.head_count_kv"] == config["num_key_value_heads"]


def count_parameters(weights: Path) -> int:
    """Count them by the header of a safetensors file: its length in 8 bytes, then JSON."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def test_health_root_version_and_metrics_answer(fleet: Fleet) -> None:
    with httpx.Client(base_url=fleet.url, trust_env=False, timeout=60) as http:
        assert http.get("/health").text == "OK"
        assert http.get("/").text == "Ollama is running"
        assert http.head("/").status_code == 200
        assert http.get("/api/version").json()["version"]
        assert 'model="smollm2:135m"' in http.get("/metrics").text


def test_a_chat_with_an_unknown_model_is_a_404(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as raised:
        client.chat("nope", messages=SUM)
    assert raised.value.status_code == 404


def test_a_model_without_a_chat_template_completes(client: ollama.Client) -> None:
    answer = client.generate(PLAIN, prompt="hello", options={**EXACT, "num_predict": 6})
    assert answer.response
    assert answer.eval_count == 6
    parts = list(client.generate(PLAIN, prompt="hello", options={**EXACT, "num_predict": 6}, stream=True))
    assert "".join(part.response for part in parts) == answer.response


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_a_chat_template_cannot_chat(fleet: Fleet, stream: bool) -> None:
    body = {"model": PLAIN, "messages": SUM, "stream": stream}
    answer = httpx.post(f"{fleet.url}/api/chat", json=body, trust_env=False, timeout=300)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("chat needs a chat template")
    assert "/api/generate" in answer.json()["error"], "the error names the alternative"


def test_concurrent_requests_use_both_workers(fleet: Fleet) -> None:
    """They are more than one worker gets, its slots and a tenth more, so the others wait for it or go to the second."""
    bodies = [{"model": MODEL, "prompt": "Hi", "options": {"num_predict": 20}, "stream": False}] * (SLOTS + 4)
    workers = Counter[str]()

    def are_both_used() -> bool:
        with ThreadPoolExecutor(len(bodies)) as clients:
            answers = list(clients.map(lambda body: ask(fleet, body), bodies))
        workers.update(fleet.serve.request(answer.headers["x-request-id"])["worker"] for answer in answers)
        return set(workers) == {"smollm2-0", "smollm2-1"}

    until(are_both_used, 60, "both workers are used, though one may be suspect at first")


def ask(fleet: Fleet, body: dict[str, object]) -> httpx.Response:
    headers = {"x-request-id": secrets.token_hex(8)}
    answer = httpx.post(f"{fleet.url}/api/generate", json=body, headers=headers, trust_env=False, timeout=300)
    return answer.raise_for_status()
