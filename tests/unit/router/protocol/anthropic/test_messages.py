from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.anthropic import prompt
from vllama_pool.router.protocol.vllm.api import encode

PNG = "iVBORw0KGgoAAAAN"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
TEXT = {"type": "text", "text": "a"}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "Paris", "n": [1, 2.5, None]}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}


def read(*messages: dict[str, Any], system: Any = None) -> Any:
    """Return the forwarded messages."""
    body = {"model": "m", "max_tokens": 5, "system": system, "messages": messages}
    return json.loads(encode(prompt.decode_message(json.dumps(body).encode()).messages))


def blocks(*content: Any, role: str = "user", before: tuple[dict[str, Any], ...] = ()) -> list[Any]:
    """Return the forwarded blocks of one message, which follows `before`."""
    messages = read(*before, {"role": role, "content": [TEXT, *content]})
    forwarded = messages[-1]["content"]
    assert forwarded[0] == TEXT
    return list(forwarded[1:])


def refusal(*content: Any, role: str = "user") -> str:
    with pytest.raises(BadRequest) as refused:
        read({"role": role, "content": list(content)})
    assert refused.value.status == 400
    return refused.value.text


CALLED = ({"role": "assistant", "content": [CALL]},)


@pytest.mark.rule(122)
@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", TEXT),
        ("user", {"type": "text", "text": ""}),
        ("user", IMAGE),
        ("user", RESULT),
        ("user", {**RESULT, "is_error": True}),
        ("user", {**RESULT, "content": [TEXT, IMAGE]}),
        ("user", {"type": "tool_result", "tool_use_id": "t1"}),
        ("assistant", CALL),
        ("assistant", {"type": "thinking", "thinking": "hm"}),
    ],
)
def test_a_block_that_vllm_takes_is_forwarded(role: str, block: dict[str, Any]) -> None:
    extra = {"cache_control": {"type": "ephemeral"}, "signature": "s", "citations": None, "caller": {"type": "direct"}}
    assert blocks({**block, **extra}, role=role, before=CALLED) == [block]


@pytest.mark.rule(122)
@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("assistant", {"type": "redacted_thinking", "data": "x"}),
        ("assistant", {"type": "thinking"}),
        ("assistant", {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": "odd"}),
        (
            "assistant",
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": {"error_code": "x"}},
        ),
        ("assistant", {"type": "mcp_tool_use", "id": 5}),
        ("assistant", {"type": "text_editor_code_execution_tool_result", "content": 5}),
        ("user", {"type": "container_upload", "file_id": "f"}),
        ("user", {"type": "tool_reference", "tool_name": "f"}),
        ("user", {"type": "never heard of", "text": 5}),
        ("user", {"type": "thinking", "thinking": "not the user's"}),
        ("system", IMAGE),
    ],
)
def test_a_block_that_no_model_takes_is_skipped(role: str, block: dict[str, Any]) -> None:
    assert blocks(block, role=role) == []


def test_blocks_of_tool_results_that_no_model_takes_are_skipped() -> None:
    content = [{"type": "tool_reference", "tool_name": "f"}, TEXT, {"type": "odd"}, CALL]
    assert blocks({**RESULT, "content": content}, before=CALLED) == [{**RESULT, "content": [TEXT]}]


def test_a_message_of_which_nothing_is_left_is_dropped() -> None:
    hidden = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}
    user = {"role": "user", "content": "hi"}
    assert read(user, hidden, {"role": "user", "content": []}, user) == [user, user]
    assert refusal() == "messages: at least one message must have content"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"source": {"type": "text", "media_type": "text/plain", "data": "body"}}, "body"),
        ({"source": {"type": "text", "data": "body"}, "title": "t", "context": "c"}, "t\nc\nbody"),
        ({"source": {"type": "content", "content": "body"}}, "body"),
        ({"source": {"type": "content", "content": [TEXT, IMAGE, TEXT]}}, "a\na"),
    ],
)
def test_a_document_of_text_is_forwarded_as_text(document: dict[str, Any], text: str) -> None:
    assert blocks({"type": "document", **document}) == [{"type": "text", "text": text}]


def test_a_search_result_is_forwarded_as_text() -> None:
    found = {"type": "search_result", "source": "https://x", "title": "t", "content": [TEXT]}
    assert blocks(found) == [{"type": "text", "text": "t\nhttps://x\na"}]


@pytest.mark.parametrize("kind", ["base64", "url", "file", ""])
def test_a_document_of_another_source_is_refused(kind: str) -> None:
    document = {"type": "document", "source": {"type": kind, "data": "JVBERi0=", "url": "http://x"}}
    text = f"document source type '{kind}' is not supported; send the document as text"
    assert refusal(document) == text


@pytest.mark.rule(122)
@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, "invalid image source"),
        ({"type": "url", "url": "http://x/y.png"}, "invalid image source type: url. Only base64 images are supported."),
        ({"type": "url", "url": "file:///etc/x"}, "invalid image source type: url. Only base64 images are supported."),
        ({"type": "file", "file_id": "f"}, "invalid image source type: file. Only base64 images are supported."),
        ({"url": "http://x"}, "invalid image source type: . Only base64 images are supported."),
        ({"type": "base64"}, "invalid image source: 'data' is empty"),
        ({"type": "base64", "data": "?"}, "invalid base64 image data: illegal base64 data at input byte 0"),
        ({"type": "base64", "data": "abc"}, "invalid base64 image data: illegal base64 data at input byte 0"),
    ],
)
def test_an_image_that_is_no_base64_data_is_refused_everywhere(source: Any, text: str) -> None:
    image = {"type": "image", "source": source}
    assert refusal(image) == text
    assert refusal({**RESULT, "content": [image]}) == text


def test_the_media_type_of_an_image_is_that_of_its_data() -> None:
    sent = {"type": "image", "source": {"type": "base64", "media_type": "x,y;base64", "data": PNG}}
    assert blocks(sent) == [IMAGE]


@pytest.mark.rule(122)
@pytest.mark.parametrize("name", ["id", "name"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_tool_use_needs_id_and_name(name: str, value: str | None) -> None:
    assert refusal({**CALL, name: value}, role="assistant") == f"tool_use block missing required '{name}' field"


def test_a_tool_use_without_input_has_an_empty_one() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "f"}
    assert blocks(call, role="assistant") == [{**call, "input": {}}]


@pytest.mark.parametrize("before", [(), ({"role": "assistant", "content": [{**CALL, "id": "t2"}]},)])
def test_a_tool_result_without_its_tool_use_is_refused(before: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(BadRequest) as refused:
        blocks(RESULT, before=before)
    text = "the tool_result block for 't1' has no tool_use block with this id in an earlier message"
    assert refused.value.text == text


def test_tool_blocks_belong_to_their_roles() -> None:
    text = "messages[0].content[1]: a tool_use block belongs in a message of the assistant"
    assert refusal(TEXT, CALL) == text
    text = "messages[0].content[0]: a tool_result block belongs in a message of the user"
    assert refusal(RESULT, role="assistant") == text


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (5, "Invalid type for 'messages[0].content[0]': expected an object, but got an integer instead."),
        ({}, "Missing required parameter: 'messages[0].content[0].type'."),
        ({"type": 5}, "Invalid type for 'messages[0].content[0].type': expected a string, but got an integer instead."),
        ({"type": "text"}, "Missing required parameter: 'messages[0].content[0].text'."),
        (
            {"type": "text", "text": 5},
            "Invalid type for 'messages[0].content[0].text': expected a string, but got an integer instead.",
        ),
        (
            {**CALL, "input": "{}"},
            "Invalid type for 'messages[0].content[0].input': expected an object, but got a string instead.",
        ),
        ({"type": "tool_result"}, "Missing required parameter: 'messages[0].content[0].tool_use_id'."),
        (
            {**RESULT, "content": [TEXT, {"type": "text", "text": 5}]},
            "Invalid type for 'messages[0].content[0].content[1].text': expected a string, but got an integer instead.",
        ),
        (
            {"type": "image", "source": "http://x"},
            "Invalid type for 'messages[0].content[0].source': expected an object, but got a string instead.",
        ),
    ],
)
def test_a_malformed_block_is_refused_by_its_place(block: Any, text: str) -> None:
    assert refusal(block) == text


@pytest.mark.rule(120)
def test_roles_are_read_in_any_case() -> None:
    messages = [{"role": role, "content": "a"} for role in ("User", "ASSISTANT", "system")]
    assert [message["role"] for message in read(*messages)] == ["user", "assistant", "system"]


@pytest.mark.parametrize("role", ["tool", "developer", ""])
def test_an_unknown_role_is_refused(role: str) -> None:
    assert refusal(TEXT, role=role) == f"messages[0].role: '{role}' is not one of 'user', 'assistant', 'system'"


@pytest.mark.parametrize(
    ("system", "forwarded"),
    [("s", "s"), ("", None), ([], None), ([IMAGE, {"type": "odd"}], None), ([TEXT, IMAGE, TEXT], [TEXT, TEXT])],
)
def test_a_system_text_is_a_text_or_blocks_of_it(system: Any, forwarded: Any) -> None:
    body = {"model": "m", "max_tokens": 5, "system": system, "messages": [{"role": "user", "content": "a"}]}
    assert json.loads(encode(prompt.decode_message(json.dumps(body).encode()).system)) == forwarded
