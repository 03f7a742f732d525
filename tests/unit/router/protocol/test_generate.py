from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from config.defaults import NONE
from router.errors import ClientError
from router.protocol import generate
from router.protocol.operation import Reply
from router.protocol.requests import decode_generate
from tests.support.protocol import CLOCK, MODEL, STAMP, THINKER, outgoing
from workers.record import ModelInfo

EMBEDDER = ModelInfo(name="all-minilm", capabilities=("embedding",))
BASE = msgspec.structs.replace(MODEL, name="base", has_template=False, template="")
PNG = "iVBORw0KGgoAAAAN"


def check(info: ModelInfo = MODEL, **fields: Any) -> Reply | None:
    return generate.check(decode_generate(json.dumps({"model": "MyModel"} | fields).encode()), info, CLOCK)


def refused(info: ModelInfo = MODEL, **fields: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        check(info, **fields)
    return caught.value.status, caught.value.text


def sent(info: ModelInfo = MODEL, **fields: Any) -> tuple[str, dict[str, Any]]:
    request = decode_generate(json.dumps({"model": "MyModel", "prompt": "hi"} | fields).encode())
    out = outgoing(generate.prepare(request, info, NONE, CLOCK))
    return out.path, json.loads(out.body)


@pytest.mark.parametrize("body", [b"{}", b'{"model":""}', b'{"model":null}', b"null"])
def test_r146_trap_6_a_missing_model_is_a_404_here(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_generate(body)
    assert (caught.value.status, caught.value.text) == (404, "model '' not found")


@pytest.mark.parametrize(
    "fields", [{}, {"prompt": ""}, {"images": [PNG]}, {"raw": True}, {"stream": True, "keep_alive": "5m"}]
)
def test_r050_r088_r090_no_prompt_is_a_load(fields: dict[str, Any]) -> None:
    assert check(**fields) == Reply(
        f'{{"model":"MyModel","created_at":"{STAMP}","response":"","done":true,"done_reason":"load"}}'.encode()
    )


def test_r087_unload_comes_before_every_check() -> None:
    reply = check(EMBEDDER, keep_alive="0s", raw=True, system="x", think=True)
    assert reply is not None
    assert json.loads(reply.body)["done_reason"] == "unload"


@pytest.mark.parametrize("fields", [{"template": "x"}, {"system": "x"}, {"context": [1]}])
def test_r056_raw_conflicts(fields: dict[str, Any]) -> None:
    text = "raw mode does not support template, system, or context"
    assert refused(raw=True, prompt="hi", **fields) == (400, text)
    assert check(raw=True, prompt="hi", template="", system="", context=[]) is None


def test_r156_an_embedding_model_cannot_generate() -> None:
    assert refused(EMBEDDER, prompt="hi") == (400, '"MyModel" does not support generate')


def test_r051_suffix_needs_a_model_that_fills_in() -> None:
    text = "registry.ollama.ai/library/MyModel:latest does not support insert"
    assert refused(prompt="hi", suffix="end") == (400, text)
    coder = msgspec.structs.replace(MODEL, capabilities=("completion", "insert"))
    assert check(coder, prompt="hi", suffix="end") is None
    path, body = sent(coder, suffix="end")
    assert (path, body["prompt"], body["suffix"]) == ("/v1/completions", "hi", "end")


def test_r053_a_template_is_refused_with_the_reason_but_not_an_empty_one() -> None:
    status, text = refused(prompt="hi", template="{{ .Prompt }}")
    assert status == 400
    assert "template" in text
    assert check(prompt="hi", template="", suffix="", system="", options={}) is None


def test_images_need_sight_and_a_template() -> None:
    assert refused(prompt="hi", images=[PNG])[1].endswith("does not support vision")
    seeing = msgspec.structs.replace(MODEL, capabilities=("completion", "vision"))
    assert check(seeing, prompt="hi", images=[PNG]) is None
    assert refused(seeing, prompt="hi", images=[PNG], raw=True)[0] == 400
    _, body = sent(seeing, images=[PNG])
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]


def test_trap_14_a_prompt_is_a_chat_of_one_message() -> None:
    path, body = sent(system="be brief", options={"num_predict": -1})
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "smollm2:135m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
    }


def test_r056_raw_is_a_completion_of_the_prompt_alone() -> None:
    path, body = sent(raw=True, logprobs=True, top_logprobs=3)
    assert path == "/v1/completions"
    assert body == {
        "model": "smollm2:135m",
        "prompt": "hi",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 2048,
        "logprobs": 3,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
    }


def test_a_model_without_template_completes_what_it_is_given() -> None:
    path, body = sent(BASE, system="Be brief.")
    assert (path, body["prompt"]) == ("/v1/completions", "Be brief.\n\nhi")
    assert body["return_token_ids"] is True


def test_r061_thinking() -> None:
    assert sent(THINKER)[1]["chat_template_kwargs"]["enable_thinking"] is True
    assert sent(THINKER, think=False)[1]["chat_template_kwargs"]["enable_thinking"] is False
    assert "chat_template_kwargs" not in sent(THINKER, raw=True)[1]
    assert refused(prompt="hi", think="low") == (400, '"MyModel" does not support thinking')


def test_r153_option_types_are_looked_at_before_a_load() -> None:
    assert refused(options={"top_k": "x"}) == (500, 'option "top_k" must be of type integer')
