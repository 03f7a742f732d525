from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, THINKER, TIMING
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.options import sampling
from vllama_pool.router.protocol.openai import completions
from vllama_pool.router.protocol.openai.requests import REFUSED, CompletionRequest
from vllama_pool.router.protocol.operation import UpstreamRequest
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.workers.registry.record import ModelInfo

TEMPLATED = Defaults(templates_completions=True)
INSERTER = ModelInfo(name="i", capabilities=("completion", "insert"), template="t")


def decoded(**fields: Any) -> CompletionRequest:
    return completions.decode(json.dumps({"model": "m", "prompt": "hi", **fields}).encode(), 16)


def plan(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS) -> ModelPlan:
    return ModelPlan(info, defaults, sampling, translated_defaults)


def prepared(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> UpstreamRequest:
    request = decoded(**fields)
    completions.check(request, info)
    return completions.prepare(request, plan(info, defaults))


def sent(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> dict[str, Any]:
    step = prepared(info, defaults, **fields)
    assert step.path == "/v1/completions"
    body: dict[str, Any] = json.loads(step.body)
    return body


FORWARDED: dict[str, Any] = {
    "prompt": [1, 2, 3],
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "seed": 7,
    "stop": "a",
    "n": 2,
    "logit_bias": {"5": -100.0},
    "logprobs": 3,
    "user": "u",
    "echo": True,
    "response_format": {"type": "json_object"},
    "structured_outputs": {"choice": ["a", "b"]},
    "stop_token_ids": [1],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "min_tokens": 2,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 10,
    "truncation_side": "left",
    "prompt_logprobs": 1,
    "allowed_token_ids": [1, 2],
    "bad_words": ["x"],
    "add_special_tokens": True,
    "thinking_token_budget": 9,
    "use_beam_search": True,
    "length_penalty": 0.8,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "repetition_detection": {"max_pattern_size": 3},
    "stream_interval": 2,
}


@pytest.mark.parametrize("name", FORWARDED)
def test_a_field_that_vllm_knows_is_forwarded(name: str) -> None:
    assert sent(**{name: FORWARDED[name]})[name] == FORWARDED[name]


def test_the_lists_of_fields_are_complete() -> None:
    known = {field.encode_name for field in msgspec.structs.fields(CompletionRequest)}
    assert known == {*FORWARDED, "model", "stream", "stream_options", "suffix", "best_of"}
    assert not known & REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_reaches_into_the_server_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=f"'{name}' is not accepted from clients"):
        decoded(**{name: 1})


@pytest.mark.parametrize("prompt", ["", "a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_prompt_is_sent_as_it_is(prompt: Any) -> None:
    assert sent(prompt=prompt) == {"model": "qwen3-tiny", "prompt": prompt}


def test_a_model_that_can_fill_in_gets_the_suffix() -> None:
    assert sent(INSERTER, suffix="end")["suffix"] == "end"


def test_a_streamed_request_asks_for_the_usage() -> None:
    assert sent(stream=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("prompt", "n", "count"), [("a", None, 1), ("a", 3, 3), (["a", "b"], 2, 4), ([1, 2], 2, 2), ([[1], [2]], None, 2)]
)
def test_each_prompt_has_its_choices(prompt: Any, n: int | None, count: int) -> None:
    assert completions.choices(decoded(prompt=prompt, n=n)) == count


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"model": ""}, "model", "model is required"),
        ({"prompt": None}, "prompt", "Missing required parameter: 'prompt'."),
        ({"prompt": []}, "prompt", "Missing required parameter: 'prompt'."),
        (
            {"prompt": {}},
            "prompt",
            "Invalid type for 'prompt': expected a string or an array, but got an object instead.",
        ),
        ({"n": 1000}, "n", "Invalid 'n': integer above maximum value. Expected a value <= 16, but got 1000 instead."),
        (
            {"best_of": 17},
            "best_of",
            "Invalid 'best_of': integer above maximum value. Expected a value <= 16, but got 17 instead.",
        ),
        ({"best_of": 2}, "best_of", "'best_of' is not supported by vLLM; use 'n'"),
        ({"prompt": ["a"] * 1025}, "prompt", "too many prompts: send at most 1024"),
        ({"prompt": ["a"] * 65, "n": 16}, "prompt", "too many prompts: send at most 64"),
        (
            {"max_tokens": 0},
            "max_tokens",
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
    ],
)
def test_a_bad_request_is_refused_with_its_field(fields: dict[str, Any], param: str, text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decoded(**fields)
    assert (refused.value.status, refused.value.param, refused.value.text) == (400, param, text)


def test_as_many_as_are_chosen_may_be_the_best() -> None:
    body = sent(best_of=2, n=2)
    assert (body["n"], "best_of" in body) == (2, False)


def test_an_echo_needs_no_tokens() -> None:
    assert sent(max_tokens=0, echo=True)["max_tokens"] == 0


@pytest.mark.parametrize(
    ("info", "fields", "text"),
    [
        (ModelInfo(name="m", capabilities=("embedding",)), {}, '"m" does not support completions'),
        (THINKER, {"suffix": "x"}, "registry.ollama.ai/library/m:latest does not support insert"),
    ],
)
def test_a_model_that_lacks_the_capability_is_refused(info: ModelInfo, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        completions.check(decoded(**fields), info)
    assert refused.value.text == text


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    with pytest.raises(Refused) as refused:
        completions.adapt(decoded(), plan(), Refused(CONTEXT_EXCEEDED, status=400))
    assert (refused.value.param, refused.value.code) == ("prompt", "context_length_exceeded")


def test_a_limit_that_is_known_after_a_refusal_is_applied() -> None:
    refused = Refused("max_tokens=9000 cannot be greater than max_model_len=512", status=400)
    step = completions.adapt(decoded(max_tokens=9000), plan(ModelInfo(name="x")), refused)
    assert step is not None
    assert json.loads(step.body)["max_tokens"] == 512
    assert completions.adapt(decoded(), plan(), Refused("other", status=400)) is None


# with `completions: templated`


def templated(stream: bool = False, **fields: Any) -> tuple[UpstreamRequest, Any]:
    request = decoded(stream=stream, **fields)
    step = completions.prepare(request, plan(defaults=TEMPLATED))
    assert step.translator is not None
    return step, step.translator(request, TIMING, CLOCK)


@pytest.mark.parametrize("prompt", ["hi", ["hi"]])
def test_a_templated_prompt_is_a_chat(prompt: Any) -> None:
    step, _ = templated(prompt=prompt, temperature=0.5, echo=True, logprobs=2)
    assert step.path == "/v1/chat/completions"
    assert json.loads(step.body) == {
        "model": "qwen3-tiny",
        "temperature": 0.5,
        "stream": False,
        "messages": [{"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1]]])
def test_a_templated_prompt_is_one_text(prompt: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        templated(prompt=prompt)
    assert (refused.value.param, refused.value.text.partition(";")[0]) == (
        "prompt",
        "this model takes one text as 'prompt'",
    )


def test_a_suffix_or_a_model_without_template_is_never_templated() -> None:
    assert prepared(INSERTER, TEMPLATED, suffix="x").path == "/v1/completions"
    assert prepared(ModelInfo(name="x", has_template=False), TEMPLATED).path == "/v1/completions"


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_the_answer_of_a_templated_prompt_is_a_completion() -> None:
    _, translator = templated()
    message = {"role": "assistant", "reasoning": "so", "content": "hello"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None}
    chat = {"id": "chatcmpl-7", "object": "chat.completion", "created": 5, "model": "served", "choices": [choice]}
    translator.feed(json.dumps({**chat, "usage": USAGE}).encode())
    assert json.loads(translator.finish()) == {
        "id": "cmpl-7",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop", "stop_reason": None}],
        "usage": USAGE,
    }
    assert (translator.done, translator.usage.completion_tokens) == (True, 2)


def test_the_stream_of_a_templated_prompt_is_that_of_a_completion() -> None:
    _, translator = templated(stream=True, stream_options={"include_usage": True})

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = {"id": "chatcmpl-7", "created": 5, "model": "served", "choices": [choice]}
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    chunks = [chunk({"role": "assistant", "content": ""}), chunk({"reasoning": "so"}), chunk({"content": "hel"})]
    chunks += [chunk({"content": "lo"}), chunk({}, "stop")]
    usage = {"id": "chatcmpl-7", "created": 5, "model": "served", "choices": [], "usage": USAGE}
    chunks += [b"data: " + json.dumps(usage).encode() + b"\n\n", b"data: [DONE]\n\n"]
    events = b"".join(translator.feed(each) for each in chunks).decode().split("\n\n")[:-1]
    assert events[-1] == "data: [DONE]"
    answers = [json.loads(event[6:]) for event in events[:-1]]
    assert [[choice["text"] for choice in answer["choices"]] for answer in answers] == [["hel"], ["lo"], [""], []]
    assert {(answer["id"], answer["object"], answer["model"]) for answer in answers} == {
        ("cmpl-7", "text_completion", "m")
    }
    assert (answers[2]["choices"][0]["finish_reason"], answers[3]["usage"]) == ("stop", USAGE)
    assert translator.done
