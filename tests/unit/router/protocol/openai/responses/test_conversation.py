from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.openai.messages import translate
from vllama_pool.router.protocol.openai.responses import conversation
from vllama_pool.router.protocol.openai.responses.items import Item, from_messages
from vllama_pool.workers.registry.record import ModelInfo

INFO = ModelInfo(name="m")
PNG = "data:image/png;base64,iVBORw0KGgo="
USER = {"type": "message", "role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}


def sent(*items: dict[str, Any], instructions: str | None = None) -> list[dict[str, Any]]:
    """Return what vLLM gets."""
    decoded = msgspec.json.decode(msgspec.json.encode(items), type=list[Item])
    chat = translate(conversation.read(decoded, instructions), INFO)
    encoded = from_messages(chat, conversation.unfinished(decoded))
    result: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(encoded))
    return result


def answer(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **fields}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def test_a_text_is_a_message_of_the_user() -> None:
    [message] = conversation.read("hi", None)
    assert (message.role, message.content) == ("user", "hi")


def test_instructions_come_first() -> None:
    assert sent(USER, instructions="be short")[0] == {"type": "message", "role": "system", "content": "be short"}


@pytest.mark.parametrize("role", ["user", "system"])
@pytest.mark.parametrize("content", ["hi", [{"type": "input_text", "text": "hi"}]])
def test_messages_pass(role: str, content: Any) -> None:
    message = {"type": "message", "role": role, "content": content}
    assert sent(USER, message) == [USER, message]


def test_a_message_needs_no_type() -> None:
    assert sent({"role": "user", "content": "hi"}) == [USER]


def test_a_developer_message_becomes_a_system_message_for_templates_that_drop_it() -> None:
    assert sent({"role": "developer", "content": "x"}, USER)[0]["role"] == "system"


def test_images_pass_as_data() -> None:
    image = {"type": "input_image", "image_url": PNG}
    [message] = sent({"role": "user", "content": [image, {**image, "detail": "low"}]})
    assert message["content"] == [{**image, "detail": "auto"}, {**image, "detail": "low"}]


def test_an_answer_is_one_text_because_vllm_reads_the_first_part() -> None:
    parts = [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "b"}]
    assert sent(USER, {"role": "assistant", "content": parts, "id": "msg_1", "phase": "x"})[1] == answer("ab")
    assert sent(USER, {"role": "assistant", "content": "a"})[1] == answer("a")
    assert sent(USER, {"role": "assistant", "content": []})[1] == answer("")


def test_reasoning_text_and_calls_of_an_answer_keep_their_order() -> None:
    turn = [USER, thought("why"), answer("a"), CALL, {**CALL, "call_id": "2"}]
    results = [{"type": "function_call_output", "call_id": id, "output": "o"} for id in ("2", "1")]
    again = [thought("more"), answer("b")]
    assert sent(*turn, *results, *again) == [*turn, *results, *again]
    chat = conversation.read(msgspec.json.decode(msgspec.json.encode(turn), type=list[Item]), None)
    assert len(chat) == 2
    assert chat[1].reasoning == "why"


@pytest.mark.parametrize(
    "reasoning",
    [
        {"content": [{"type": "reasoning_text", "text": "why"}], "encrypted_content": "gAAA"},
        {"summary": [{"type": "summary_text", "text": "why"}], "content": None, "encrypted_content": None},
        {"summary": [{"type": "summary_text", "text": "no"}], "content": [{"type": "reasoning_text", "text": "why"}]},
        {"content": "why"},
        {"summary": [], "encrypted_content": "why"},
        {"summary": [], "content": [], "encrypted_content": "why"},
    ],
)
def test_reasoning_is_read_from_its_content_or_else_its_summary(reasoning: dict[str, Any]) -> None:
    assert sent(USER, {"type": "reasoning", "id": "rs_1", **reasoning}, answer("a"))[1] == thought("why")


def test_reasoning_that_only_openai_can_read_is_dropped() -> None:
    assert sent(USER, {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo-x_="}, answer("a"))[
        1
    ] == answer("a")


def test_a_custom_tools_call_has_its_input_as_argument() -> None:
    call = {"type": "custom_tool_call", "call_id": "1", "name": "patch", "namespace": "n", "input": 'a "b"'}
    output = {"type": "custom_tool_call_output", "call_id": "1", "output": "done"}
    assert sent(USER, call, output)[1:] == [
        {"type": "function_call", "call_id": "1", "name": "patch", "arguments": '{"input":"a \\"b\\""}'},
        {"type": "function_call_output", "call_id": "1", "output": "done"},
    ]


def test_a_namespaces_function_has_its_flat_name() -> None:
    assert sent(USER, {**CALL, "namespace": "n"})[1]["name"] == "n__f"


@pytest.mark.parametrize(
    ("call", "result", "name", "arguments"),
    [
        ({"type": "local_shell_call", "call_id": "1", "action": {"x": 1}}, "function_call", "local_shell", '{"x":1}'),
        ({"type": "local_shell_call", "id": "1", "action": {"x": 1}}, "local_shell_call", "local_shell", '{"x":1}'),
        ({"type": "shell_call", "call_id": "1", "action": {"x": 1}}, "shell_call", "shell", '{"x":1}'),
        ({"type": "apply_patch_call", "call_id": "1", "operation": {}}, "apply_patch_call", "apply_patch", "{}"),
        ({"type": "shell_call", "call_id": "1"}, "shell_call", "shell", "{}"),
    ],
)
def test_calls_of_tools_that_the_client_runs_are_functions(
    call: dict[str, Any], result: str, name: str, arguments: str
) -> None:
    id = {"id": "1"} if result == "local_shell_call" else {"call_id": "1"}
    assert sent(USER, call, {"type": f"{result}_output", **id, "output": "o"})[1:] == [
        {"type": "function_call", "call_id": "1", "name": name, "arguments": arguments},
        {"type": "function_call_output", "call_id": "1", "output": '"o"' if result == "shell_call" else "o"},
    ]


def test_a_results_parts_pass() -> None:
    parts = [{"type": "input_text", "text": "o"}, {"type": "input_image", "image_url": PNG, "detail": "auto"}]
    result = {"type": "function_call_output", "call_id": "1", "output": parts}
    assert sent(USER, CALL, result)[2] == result


@pytest.mark.parametrize("kind", sorted(conversation.DROPPED))
def test_traces_of_tools_that_openai_runs_are_dropped(kind: str) -> None:
    assert sent(USER, {"type": kind, "id": "x", "status": "completed", "output": [], "arguments": {}}) == [USER]


@pytest.mark.parametrize("status", ["in_progress", "incomplete"])
def test_an_unfinished_answer_at_the_end_is_continued(status: str) -> None:
    assert sent(USER, answer("a", status=status))[1] == answer("a", status=status)
    assert sent(USER, answer("a", status=status), USER)[1] == answer("a")
    assert sent(USER, answer("a", status="completed"))[1] == answer("a")


def part(**fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": [fields]}


@pytest.mark.parametrize(
    ("items", "text", "param"),
    [
        ([{"type": "robot"}], "Invalid value: 'robot'. Supported values are: 'message', 'reasoning',", "type"),
        ([{"type": "input_text", "text": "hi"}], "Invalid value: 'input_text'.", "type"),
        ([{}], "Missing required parameter: 'input[0].type'.", "type"),
        ([{"type": "item_reference", "id": "x"}], "items of type 'item_reference' are not supported:", ""),
        ([{"type": "compaction", "encrypted_content": "x"}], "items of type 'compaction' are not supported:", ""),
        ([{"type": "web_search_call"}], "'input' has no messages; send one", None),
        ([{"type": "message", "content": "x"}], "Missing required parameter: 'input[0].role'.", "role"),
        ([{"role": "user"}], "Missing required parameter: 'input[0].content'.", "content"),
        ([{"role": "user", "content": []}], "'input[0].content' is empty", "content"),
        ([{"role": "tool", "content": "x"}], "Invalid value: 'tool'. Supported values are: 'user',", "role"),
        ([part(type="x")], "Invalid value: 'x'. Supported values are: 'input_text',", "content[0].type"),
        ([part(text="x")], "Invalid value: ''.", "content[0].type"),
        ([part(type="input_text")], "Missing required parameter: 'input[0].content[0].text'.", "content[0].text"),
        ([part(type="input_file", file_id="x")], "file inputs are not currently supported", "content[0]"),
        ([part(type="input_audio", input_audio={})], "audio is not supported by /v1/responses", "content[0]"),
        ([part(type="input_image", file_id="x")], "'input[0].content[0]' has no 'image_url'", "content[0]"),
        ([{"role": "assistant", "content": [{"type": "input_image", "image_url": PNG}]}], "an assistant's", "content"),
        ([{**CALL, "call_id": None}], "Missing required parameter: 'input[0].call_id'.", "call_id"),
        ([{**CALL, "name": None}], "Missing required parameter: 'input[0].name'.", "name"),
        ([{**CALL, "arguments": {}}], "Invalid type for 'input[0].arguments': expected a string,", "arguments"),
        ([{**CALL, "arguments": None}], "Invalid type for 'input[0].arguments': expected a string,", "arguments"),
    ],
)
def test_invalid_items_are_refused(items: list[dict[str, Any]], text: str, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(*items)
    assert caught.value.text.startswith(text)
    assert caught.value.param == ("input" if param is None else f"input[0].{param}".removesuffix("."))


@pytest.mark.parametrize(
    "url", ["http://example.com/x.png", "https://x", "file:///etc/passwd", "x", "data:image/png,x"]
)
def test_images_by_address_are_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="image URLs are not currently supported"):
        sent(part(type="input_image", image_url=url))
    output = [{"type": "input_image", "image_url": url}]
    with pytest.raises(BadRequest, match="image URLs are not currently supported"):
        sent(USER, CALL, {"type": "function_call_output", "call_id": "1", "output": output})


def test_invalid_base64_is_refused() -> None:
    with pytest.raises(BadRequest, match="illegal base64 data at input byte 0"):
        sent(part(type="input_image", image_url="data:image/png;base64,@@@@"))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"call_id": "2", "output": "x"}, "No tool call found for function call output with call_id 2."),
        ({"output": "x"}, "Missing required parameter: 'input[2].call_id'."),
        ({"call_id": "1"}, "Missing required parameter: 'input[2].output'."),
        ({"call_id": "1", "output": {"a": 1}}, "Invalid type for 'input[2].output': expected a string or an array"),
        ({"call_id": "1", "output": 5}, "Invalid type for 'input[2].output'"),
        ({"call_id": "1", "output": [{"type": "input_file"}]}, "file inputs are not currently supported"),
    ],
)
def test_invalid_results_are_refused(result: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(USER, CALL, {"type": "function_call_output", **result})
    assert caught.value.text.startswith(text)


def test_a_result_must_follow_its_call() -> None:
    with pytest.raises(BadRequest, match="No tool call found"):
        sent(USER, {"type": "function_call_output", "call_id": "1", "output": "x"}, CALL)
