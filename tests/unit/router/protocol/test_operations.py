from __future__ import annotations

import ast
from pathlib import Path

import pytest

import router.protocol
from config.defaults import NONE
from router.protocol.operation import Operation
from router.protocol.operations import OPERATIONS, operations
from tests.support.protocol import CLOCK, MODEL, TIMING, outgoing, run, stream

ALLOWED = {"config", "workers", "router", "msgspec"}
FORBIDDEN = {"asyncio", "socket", "os", "subprocess", "threading", "pathlib", "logging", "random"}


def by_name() -> dict[str, Operation[object]]:
    return {operation.name: operation for operation in operations(CLOCK)}


def test_the_table_has_both_endpoints() -> None:
    assert {(operation.name, operation.path) for operation in OPERATIONS} == {
        ("chat", "/api/chat"),
        ("generate", "/api/generate"),
    }


@pytest.mark.parametrize(("name", "captured"), [("chat", "chat-plain"), ("generate", "generate-ids")])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_operation_from_body_to_answer(name: str, captured: str, streamed: bool) -> None:
    operation = by_name()[name]
    body = b'{"model":"X","prompt":"hi","messages":[{"role":"user","content":"hi"}],"stream":'
    request = operation.decode(body + (b"true}" if streamed else b"false}"))
    assert (request.model, request.stream) == ("X", streamed)  # type: ignore[attr-defined]
    assert operation.check(request, MODEL) is None
    assert outgoing(operation.prepare(request, MODEL, NONE)).path == "/v1/chat/completions"
    answer = run(operation.fold(request, TIMING, CLOCK), stream(captured))  # type: ignore[arg-type]
    assert b'"done":true' in answer
    expected = "application/x-ndjson" if streamed else "application/json; charset=utf-8"
    assert operation.content_type(request) == expected
    assert answer.endswith(b"\n") == streamed


def test_r148_not_found_is_in_single_quotes_and_echoes() -> None:
    for operation in OPERATIONS:
        assert operation.not_found("Llama3") == "model 'Llama3' not found"


def test_the_protocol_is_pure() -> None:
    for file in Path(router.protocol.__file__ or "").parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top not in FORBIDDEN, (file.name, name)
                assert top != "router" or name.startswith(("router.protocol", "router.errors")), (file.name, name)
                assert top != "config" or name in ("config.names", "config.defaults"), (file.name, name)
                assert top != "workers" or name == "workers.record", (file.name, name)
