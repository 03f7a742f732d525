"""Error bodies in the format of the path's API."""

import json
from typing import Any

import pytest

from vllama_pool.router.protocol.error_bodies import error_body


def error(path: str, status: int, **more: Any) -> Any:
    return json.loads(error_body(path, status, "no", **more))


def test_error_bodies_are_in_the_format_of_their_clients() -> None:
    assert error_body("/api/chat", 404, 'no "x"') == b'{"error":"no \\"x\\""}'
    assert error_body("/v1/models/x", 404, "no") == (
        b'{"error":{"message":"no","type":"not_found_error","param":null,"code":null}}'
    )
    assert error_body("/v1/messages", 404, "no", "a1") == (
        b'{"type":"error","error":{"type":"not_found_error","message":"no"},"request_id":"req_a1"}'
    )


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messagesx", "/rerank", "/score", "/tokenize", "/detokenize"]
)
def test_openais_format_is_that_of_vllms_paths_outside_v1_too(path: str) -> None:
    assert error(path, 500)["error"]["type"] == "api_error"


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/messages", "/v1", "/rerank/x"])
def test_other_paths_have_ollamas_format(path: str) -> None:
    assert error(path, 500) == {"error": "no"}


def test_openais_errors_name_the_field_at_fault_and_a_code() -> None:
    found = error("/v1/completions", 400, param="n", code="too_many")["error"]
    assert (found["param"], found["code"]) == ("n", "too_many")


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "not_found_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (415, "invalid_request_error", "invalid_request_error"),
        (422, "invalid_request_error", "invalid_request_error"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "api_error", "api_error"),
        (501, "api_error", "api_error"),
        (502, "api_error", "api_error"),
        (503, "api_error", "overloaded_error"),
        (504, "api_error", "timeout_error"),
        (529, "api_error", "overloaded_error"),
    ],
)
def test_the_type_of_an_error_follows_its_status(status: int, openai: str, anthropic: str) -> None:
    assert error("/v1/responses", status)["error"]["type"] == openai
    assert error("/v1/messages/count_tokens", status)["error"]["type"] == anthropic


def test_an_anthropic_error_without_a_known_request_has_no_id() -> None:
    assert error("/v1/messages", 400) == {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
