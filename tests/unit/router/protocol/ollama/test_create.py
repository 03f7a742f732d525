from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.errors import BadRequest, ClientError, TooLarge
from vllama_pool.router.protocol.ollama import create
from vllama_pool.router.protocol.ollama.create import CreateRequest, decode_create, refuse_unsupported

DIGEST = "sha256:" + "a" * 64


def request(**fields: Any) -> CreateRequest:
    return decode_create(json.dumps({"model": "v", "from": "m"} | fields).encode())


def refusal(base_template: str = "", **fields: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as error:
        refuse_unsupported(request(**fields), base_template)
    return error.value.status, error.value.text


@pytest.mark.rule(108)
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"files": {"a.gguf": DIGEST}}, create.NO_FILES),
        ({"adapters": {"a": DIGEST}}, create.NO_ADAPTERS),
        ({"draft_files": {"a": DIGEST}}, create.NO_DRAFT),
        ({"draft_quantize": "q4"}, create.NO_DRAFT),
        ({"quantize": "q4"}, create.NO_QUANTIZE),
        ({"parser": "x"}, create.NO_PARSER),
        ({"template": "{{ other }}"}, create.NO_TEMPLATE),
    ],
)
def test_unsupported_fields_are_a_501(fields: dict[str, Any], text: str) -> None:
    assert refusal("{{ base }}", **fields) == (501, text)


def test_repeating_the_bases_template_is_accepted() -> None:
    refuse_unsupported(request(template="{{ base }}"), "{{ base }}")
    refuse_unsupported(request(), "{{ base }}")


def test_an_invalid_digest_is_reported_before_an_unsupported_field() -> None:
    assert refusal(files={"a": "md5:x"}, quantize="q4") == (400, "invalid digest format")


@pytest.mark.parametrize(("path", "valid"), [("a/b", True), (".", True), ("/a", False), ("a/../b", False), ("", False)])
def test_file_paths_must_be_relative(path: str, valid: bool) -> None:
    if valid:
        assert request(files={path: DIGEST}).files
        return
    with pytest.raises(BadRequest, match=r"^file path must be relative$"):
        request(files={path: DIGEST})


def test_a_request_above_the_limits_is_too_large() -> None:
    assert len(request(system="x" * (create.MAX_ADDED - 1000)).system) == create.MAX_ADDED - 1000
    with pytest.raises(TooLarge, match="more than 1024 KiB to its base"):
        request(system="x" * create.MAX_ADDED)
    with pytest.raises(TooLarge, match="more than 1024 KiB to its base"):
        request(license=["x" * create.MAX_ADDED])
    with pytest.raises(TooLarge, match="request is larger than 8 MiB"):
        decode_create(b" " * (create.MAX_BODY + 1))


def test_nesting_above_the_limit_is_refused() -> None:
    value: Any = 1
    for _ in range(create.MAX_DEPTH):
        value = [value]
    with pytest.raises(BadRequest, match=r"^exceeded max depth$"):
        request(parameters={"x": value})


@pytest.mark.parametrize(
    ("value", "licenses"), [(None, ()), ("MIT", ("MIT",)), (["MIT", "", "BSD"], ("MIT", "BSD")), ("", ())]
)
def test_a_license_is_a_text_or_a_list_of_texts(value: Any, licenses: tuple[str, ...]) -> None:
    assert request(license=value).licenses == licenses


@pytest.mark.parametrize("value", [1, ["a", 1], {}])
def test_a_license_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match="license must be a string"):
        _ = request(license=value).licenses


def test_parameters_lose_nulls_and_wrong_types_are_a_400() -> None:
    assert create.parameters(request(parameters={"seed": 1, "stop": None, "x": "y"})) == {"seed": 1, "x": "y"}
    with pytest.raises(BadRequest, match="must be of type integer"):
        create.parameters(request(parameters={"seed": "x"}))


def test_messages_lose_nulls_except_in_arguments_of_calls() -> None:
    call = {"id": None, "function": {"name": "f", "arguments": {"a": None}}}
    [message] = create.messages(request(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}]))
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": None}
    assert "content" not in message
    assert "id" not in message["tool_calls"][0]


@pytest.mark.rule(107)
def test_progress_lists_existing_then_new_layers() -> None:
    statuses = [json.loads(line)["status"] for line in create.progress(["aa"], ["bb"])]
    assert statuses == [
        "using existing layer sha256:aa",
        "creating new layer sha256:bb",
        "writing manifest",
        "success",
    ]
