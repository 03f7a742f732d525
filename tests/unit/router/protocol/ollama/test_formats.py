from __future__ import annotations

import msgspec
import pytest

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.ollama.formats import check_format, translate


@pytest.mark.rule(57)
@pytest.mark.parametrize("raw", [b"", b"null", b'""'])
def test_an_empty_format_is_no_format(raw: bytes) -> None:
    check_format(msgspec.Raw(raw))
    assert translate(msgspec.Raw(raw)) is None


@pytest.mark.rule(57)
def test_json_and_a_schema_become_response_formats() -> None:
    assert msgspec.to_builtins(translate(msgspec.Raw(b'"json"')))["type"] == "json_object"
    schema = msgspec.json.decode(msgspec.json.encode(translate(msgspec.Raw(b'{"type":"object"}'))))
    assert schema == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": {"type": "object"}},
    }


@pytest.mark.rule(57)
@pytest.mark.parametrize("raw", [b'"xml"', b"1", b"[]"])
def test_another_format_is_a_500(raw: bytes) -> None:
    with pytest.raises(ClientError, match=r"^invalid format: .*valid JSON Schema object$") as refused:
        check_format(msgspec.Raw(raw))
    assert refused.value.status == 500
