"""Bounds on the tokens of requests."""

from typing import Any

import msgspec
import pytest

from vllama_pool.router.protocol.anthropic.prompt import decode_message
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.openai.pooling.embeddings import decode as decode_embeddings
from vllama_pool.router.protocol.openai.requests import CHAT, COMPLETION
from vllama_pool.router.protocol.openai.responses.call import decode as decode_response
from vllama_pool.router.routing.prompt_size import PromptSize, prompt_size

TEXT = "word " * 1600
"""8000 bytes: about 1600 tokens."""


def encoded(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", **fields})


USER = [{"role": "user", "content": TEXT}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
REQUESTS = {
    "Ollama's chat": decode_chat(encoded(messages=USER)),
    "Ollama's generate": decode_generate(encoded(prompt=TEXT)),
    "OpenAI's chat": CHAT.decode(encoded(messages=USER)),
    "OpenAI's chat with parts": CHAT.decode(encoded(messages=PARTS)),
    "a completion": COMPLETION.decode(encoded(prompt=TEXT)),
    "a completion of texts": COMPLETION.decode(encoded(prompt=[TEXT])),
    "a response": decode_response(encoded(input=TEXT)),
    "a message": decode_message(encoded(max_tokens=1, messages=PARTS)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_bounds_are_around_the_tokens_of_prose_in_every_protocol(name: str) -> None:
    size = prompt_size(REQUESTS[name])
    assert 500 <= size.at_least <= 1600 <= size.at_most <= 4100


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1234567890" * 50, 500), ("中文测试" * 200, 800), ("    x = 1\n" * 100, 500)],
    ids=["digits", "Chinese", "code"],
)
def test_the_bounds_hold_for_digits_chinese_and_code(text: str, tokens: int) -> None:
    size = prompt_size(decode_chat(encoded(messages=[{"role": "user", "content": text}])))
    assert size.at_least <= tokens <= 2 * size.at_most


def test_the_longest_answer_counts_for_the_upper_bound() -> None:
    def at_most(request: Any) -> int:
        return prompt_size(request).at_most

    bare = at_most(CHAT.decode(encoded(messages=USER)))
    assert at_most(CHAT.decode(encoded(messages=USER, max_tokens=700))) == bare + 700
    assert at_most(CHAT.decode(encoded(messages=USER, max_completion_tokens=700))) == bare + 700
    assert at_most(decode_chat(encoded(messages=USER, options={"num_predict": 700}))) == bare + 700
    assert at_most(decode_chat(encoded(messages=USER, options={"num_predict": -1}))) == bare


def test_tools_system_texts_and_calls_count() -> None:
    def at_most(**fields: Any) -> int:
        return prompt_size(decode_chat(encoded(**fields))).at_most

    tool = {"type": "function", "function": {"name": "f", "description": TEXT, "parameters": {}}}
    call = {"function": {"name": "f", "arguments": {"text": TEXT}}}
    bare = at_most(messages=USER)
    assert at_most(messages=USER, tools=[tool]) > bare + 4000
    assert at_most(messages=[*USER, {"role": "assistant", "content": "", "tool_calls": [call]}]) > bare + 4000
    assert prompt_size(decode_generate(encoded(prompt="x", system=TEXT))).at_most > 4000


def test_images_have_no_upper_bound_and_their_bytes_do_not_count() -> None:
    image = "A" * 40_000
    sizes = [
        prompt_size(decode_chat(encoded(messages=[{"role": "user", "content": "What?", "images": [image]}]))),
        prompt_size(
            CHAT.decode(
                encoded(
                    messages=[
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "What?"},
                                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
                            ],
                        }
                    ]
                )
            )
        ),
    ]
    assert {size.at_most for size in sizes} == {0}
    assert max(size.at_least for size in sizes) < 10


def test_calls_results_and_thoughts_in_blocks_count() -> None:
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"text": TEXT}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": TEXT}]}
    thought = {"type": "thinking", "thinking": TEXT, "signature": "s"}
    turns = [
        {"role": "user", "content": "Call."},
        {"role": "assistant", "content": [thought, use]},
        {"role": "user", "content": [result]},
    ]
    size = prompt_size(decode_message(encoded(max_tokens=1, messages=turns)))
    assert 1500 <= size.at_least <= 3 * 1600 <= size.at_most


@pytest.mark.parametrize("prompts", [["word " * 100] * 50, [list(range(100))] * 50])
def test_of_several_prompts_the_longest_counts(prompts: Any) -> None:
    size = prompt_size(COMPLETION.decode(encoded(prompt=prompts)))
    assert size.at_least <= 110
    assert size.at_most < 400


def test_tokens_are_counted() -> None:
    assert prompt_size(COMPLETION.decode(encoded(prompt=list(range(900))))).at_least >= 900
    size = prompt_size(decode_generate(encoded(prompt="Go on.", context=list(range(900)))))
    assert 900 <= size.at_least <= size.at_most <= 1000


def test_requests_without_a_prompt_have_no_bounds() -> None:
    assert prompt_size(decode_chat(encoded())) == PromptSize()
    assert prompt_size(decode_embeddings(encoded(input="hello"))) == PromptSize()
