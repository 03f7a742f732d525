from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.operations import REQUESTS, Request
from vllama_pool.router.poison.digest import digest_of
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.table import operations

OPERATIONS = {operation.path: operation for operation in operations(SystemClock())}


def digest(path: str, **fields: Any) -> str:
    operation = OPERATIONS[path]
    return digest_of(operation.name, operation.decode(json.dumps(fields).encode()))


@pytest.mark.parametrize("request_", [one for one in REQUESTS if not one.hears], ids=str)
def test_a_request_of_each_operation_has_a_digest(request_: Request) -> None:
    assert len(digest(request_.path, **request_.content("m")["json"])) == 32


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "options": {"seed": 1, "top_k": 2}}


def test_how_a_request_is_written_and_delivered_does_not_change_its_digest() -> None:
    other = {**CHAT, "model": "M:latest", "stream": False, "keep_alive": 5, "options": {"top_k": 2, "seed": 1}}

    assert digest("/api/chat", **other) == digest("/api/chat", **CHAT)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"messages": [{"role": "user", "content": "hello!"}]},
        {"messages": [{"role": "user", "content": "hello", "images": ["aGk="]}]},
        {"options": {"seed": 2, "top_k": 2}},
        {"format": "json"},
    ],
)
def test_other_content_has_another_digest(change: dict[str, Any]) -> None:
    assert digest("/api/chat", **{**CHAT, **change}) != digest("/api/chat", **CHAT)


def test_a_request_that_is_not_a_struct_has_none() -> None:
    assert digest_of("chat", object()) == ""
