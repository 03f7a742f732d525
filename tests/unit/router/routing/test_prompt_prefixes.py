"""Hashes of prompts: the same for all turns of a conversation, and shared by prompts about one document."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from vllama_pool.router.protocol.anthropic.prompt import decode_message
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.openai.audio.form import FormFile
from vllama_pool.router.protocol.openai.audio.transcription import TranscriptionRequest
from vllama_pool.router.protocol.openai.requests import CHAT, COMPLETION
from vllama_pool.router.protocol.openai.responses.call import decode as decode_response
from vllama_pool.router.routing import prompt_prefixes as module
from vllama_pool.router.routing.prompt_prefixes import (
    KEY_BYTES,
    MAX_ENDS,
    NO_PREFIXES,
    PromptPrefixes,
)


def prompt_prefixes(request: Any) -> PromptPrefixes:
    return module.prompt_prefixes(request, request.model)


SYSTEM = "You are a helpful assistant of the town hall. " * 40
Turns = list[tuple[str, str]]
TOOL = {"name": "f", "description": "finds", "parameters": {"type": "object", "properties": {}}}


def encoded(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", **fields})


def items(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def ollama(turns: Turns, system: str = SYSTEM, **fields: Any) -> Any:
    return decode_chat(encoded(messages=[{"role": "system", "content": system}, *items(turns)], **fields))


def openai(turns: Turns, system: str = SYSTEM, **fields: Any) -> Any:
    return CHAT.decode(encoded(messages=[{"role": "developer", "content": system}, *items(turns)], **fields))


def anthropic(turns: Turns, system: str = SYSTEM, **fields: Any) -> Any:
    billing = {"type": "text", "text": f"x-anthropic-billing-header: {random.random()}"}
    blocks = [billing, {"type": "text", "text": system}]
    return decode_message(encoded(max_tokens=9, system=blocks, messages=items(turns), **fields))


def responses(turns: Turns, system: str = SYSTEM, **fields: Any) -> Any:
    return decode_response(encoded(instructions=system, input=items(turns), **fields))


every = pytest.mark.parametrize("chat", [ollama, openai, anthropic, responses])
Chat = Callable[..., Any]


def conversation(turns: int, subject: str = "Where is the castle?") -> Turns:
    answers = [("assistant", f"Answer {number}. " * 30) for number in range(turns)]
    questions = [("user", subject), *(("user", f"And question {number}?") for number in range(1, turns))]
    return [turn for pair in zip(questions, answers, strict=True) for turn in pair][:-1]


@every
def test_all_turns_of_a_conversation_have_one_key_and_extend_each_other(chat: Chat) -> None:
    before = prompt_prefixes(chat(conversation(1)))
    for turns in range(2, 12):
        after = prompt_prefixes(chat(conversation(turns)))
        assert after.key == before.key
        assert before.prefixes[-1] in after.prefixes, "all of the last request"
        assert after.prefixes[-1] not in before.prefixes
        before = after


@every
def test_conversations_with_the_same_system_text_have_nothing_in_common(chat: Chat) -> None:
    one, other = (prompt_prefixes(chat(conversation(3, subject))) for subject in ("Where?", "When?"))
    assert one.key != other.key
    assert not set(one.prefixes) & set(other.prefixes)


@every
def test_conversations_that_begin_with_the_same_question_share_it(chat: Chat) -> None:
    one, other = (prompt_prefixes(chat([*conversation(1), ("assistant", "Yes."), ("user", end)])) for end in "ab")
    assert one.key == other.key
    assert len(set(one.prefixes) & set(other.prefixes)) >= 2, "the question, and the answer"
    assert one.prefixes[-1] not in other.prefixes


@every
def test_other_models_systems_and_tools_have_other_hashes(chat: Chat) -> None:
    def tools(name: str) -> dict[str, Any]:
        if chat is anthropic:
            return {"tools": [{"name": name, "input_schema": {"type": "object"}}]}
        if chat is responses:
            return {"tools": [{"type": "function", **TOOL, "name": name}]}
        return {"tools": [{"type": "function", "function": {**TOOL, "name": name}}]}

    turns = conversation(2)
    variants = [
        *(chat(turns), chat(turns, model="n"), chat(turns, system="Be brief.")),
        *(chat(turns, **tools("f")), chat(turns, **tools("g"))),
    ]
    found = [prompt_prefixes(variant) for variant in variants]
    assert len({each.key for each in found}) == 5
    assert len({prefix for each in found for prefix in each.prefixes}) == sum(len(each.prefixes) for each in found)


@every
def test_the_last_turns_of_a_long_conversation_suffice(chat: Chat) -> None:
    """An agent adds a call and several results at once."""
    turns = conversation(60)
    after = [*turns, ("assistant", "I call."), *(("user", f"result {number}") for number in range(5))]
    before = prompt_prefixes(chat(turns))
    assert before.prefixes[-1] in prompt_prefixes(chat(after)).prefixes
    assert len(before.prefixes) <= MAX_ENDS + 2


def completion(prompt: Any) -> PromptPrefixes:
    return prompt_prefixes(COMPLETION.decode(encoded(prompt=prompt)))


DOCUMENT = " ".join(random.Random(1).choice(("alpha", "beta", "gamma", "delta")) for _ in range(4000))


@pytest.mark.parametrize("length", [900, 3000, 10_000, 20_000])
@pytest.mark.parametrize("question", ["Why?", "Who wrote it, and what for? " * 3])
def test_questions_about_one_document_share_its_beginning(length: int, question: str) -> None:
    one, other = completion(DOCUMENT[:length] + "\nWhat is it?"), completion(DOCUMENT[:length] + "\n" + question)
    assert set(one.prefixes) & set(other.prefixes)


def test_prompts_with_less_than_half_in_common_share_no_prefix() -> None:
    one, other = (completion(DOCUMENT[:2000] + text * 3000) for text in ("a", "b"))
    assert one.key == other.key, "they begin alike, and a new router sends them to one worker"
    assert not set(one.prefixes) & set(other.prefixes)


def test_long_prompts_that_differ_early_have_other_keys() -> None:
    assert completion("a" + DOCUMENT).key != completion("b" + DOCUMENT).key
    same = DOCUMENT[:KEY_BYTES]
    assert completion(same + "a" * 9).key == completion(same + "b" * 9).key


def test_a_prompt_that_continues_has_the_earlier_ones_as_prefixes() -> None:
    first = completion([1, 2, 3, 4])
    assert first.prefixes
    assert first.key == completion([1, 2, 3, 4]).key
    before = decode_generate(encoded(prompt=DOCUMENT[:600], context=list(range(500))))
    after = decode_generate(encoded(prompt="Go on.", context=list(range(700))))
    assert set(prompt_prefixes(before).prefixes) & set(prompt_prefixes(after).prefixes)


@pytest.mark.parametrize(
    "request_",
    [
        decode_chat(encoded(messages=[])),
        decode_chat(encoded()),
        decode_generate(encoded(prompt="")),
        CHAT.decode(encoded(messages=[])),
    ],
)
def test_a_request_without_a_prompt_has_no_hashes(request_: Any) -> None:
    assert prompt_prefixes(request_) == NO_PREFIXES


def test_the_prompt_of_a_transcription_is_no_prefix() -> None:
    request = TranscriptionRequest(model="m", file=FormFile(b"sound", "a.wav"), prompt="Names: Ada, Bob.")
    assert prompt_prefixes(request) == NO_PREFIXES


def test_system_blocks_of_other_kinds_count() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    system = [{"type": "text", "text": "See:"}, image]
    body = encoded(max_tokens=1, system=system, messages=items([("user", "?")]))
    assert prompt_prefixes(decode_message(body)).key


IMAGE = "iVBORw0KGgoA" + "A" * 2_000_000
LINK = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
SOUND = {"type": "input_audio", "input_audio": {"data": IMAGE, "format": "wav"}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}


def with_large_image(kind: str, question: str, *later: str, end: str = "") -> Any:
    """A conversation whose first message has the question and an image."""
    turns = [{"role": ("assistant", "user")[index % 2], "content": text} for index, text in enumerate(later)]
    text = {"type": "text", "text": question}
    if kind == "Ollama's":
        return decode_chat(encoded(messages=[{"role": "user", "content": question, "images": [IMAGE + end]}, *turns]))
    part = msgspec.json.decode(
        msgspec.json.encode({"link": LINK, "sound": SOUND, "source": SOURCE}[kind]).replace(b'"}', f'{end}"}}'.encode())
        if kind != "sound"
        else msgspec.json.encode(SOUND).replace(b'AA","', f'AA{end}","'.encode())
    )
    body = encoded(messages=[{"role": "user", "content": [text, part]}, *turns], max_tokens=1)
    return decode_message(body) if kind == "source" else CHAT.decode(body)


@pytest.mark.parametrize("kind", ["Ollama's", "link", "sound", "source"])
def test_prompts_with_large_images_have_a_key_alone(kind: str) -> None:
    first = prompt_prefixes(with_large_image(kind, "What?"))
    assert first.key
    assert first.prefixes == ()
    assert prompt_prefixes(with_large_image(kind, "What?", "A cat.", "Where?")) == first
    assert prompt_prefixes(with_large_image(kind, "Who?")) != first
    assert prompt_prefixes(with_large_image(kind, "What?", end="BBBB")) != first


def test_long_texts_have_a_key_alone() -> None:
    one, other = (
        decode_chat(encoded(messages=items([("user", "hello"), ("assistant", "x" * 2_000_000), ("user", end)])))
        for end in "ab"
    )
    assert prompt_prefixes(one) == prompt_prefixes(other)
    assert prompt_prefixes(one).prefixes == ()


def test_system_messages_alone_are_a_prompt() -> None:
    one, other = (prompt_prefixes(decode_chat(encoded(messages=items([("system", text)])))) for text in "ab")
    assert one.key not in (0, other.key)


def test_images_calls_and_broken_characters_have_hashes() -> None:
    body = encoded(messages=[{"role": "user", "content": "?", "images": ["aGk="], "tool_calls": [{"function": {}}]}])
    assert prompt_prefixes(decode_chat(body)).key
    assert prompt_prefixes(decode_chat(body.replace(b'"?"', b'"\\ud800"'))).key
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}, {"type": "text", "text": "?"}]
    assert prompt_prefixes(CHAT.decode(encoded(messages=[{"role": "user", "content": parts}]))).key


def test_hashes_are_the_same_in_every_process() -> None:
    assert completion("hello") == PromptPrefixes(12520369257466298373, (12520369257466298373,))
