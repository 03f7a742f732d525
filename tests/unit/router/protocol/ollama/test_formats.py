from __future__ import annotations

import msgspec
import pytest

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.ollama.formats import require_valid, translate


@pytest.mark.rule(57)
@pytest.mark.parametrize("raw", [b"", b"null", b'""'])
def test_an_empty_format_is_no_format(raw: bytes) -> None:
    assert translate(msgspec.Raw(raw)) is None


@pytest.mark.rule(57)
def test_json_and_a_schema_become_response_formats() -> None:
    assert msgspec.to_builtins(translate(msgspec.Raw(b'"json"')))["type"] == "json_object"
    translated = msgspec.json.decode(msgspec.json.encode(translate(msgspec.Raw(b'{"type":"boolean","title":"x"}'))))
    schema = {"type": "boolean", "x-guidance": {"whitespace_flexible": False}}
    assert translated == {"type": "json_schema", "json_schema": {"name": "response", "schema": schema}}


@pytest.mark.rule(57)
@pytest.mark.parametrize("raw", [b'"xml"', b"1", b"[]"])
def test_another_format_is_a_500(raw: bytes) -> None:
    with pytest.raises(ClientError, match=r"^invalid format: .*valid JSON Schema object$") as refused:
        require_valid(translate(msgspec.Raw(raw)))
    assert refused.value.status == 500


@pytest.mark.parametrize(
    "raw", [b'{"type":"foo"}', b'{"minimum":1e999}', b'{"not":' + b"[" * 5000 + b"]" * 5000 + b"}"]
)
def test_a_schema_that_cannot_be_translated_is_a_400(raw: bytes) -> None:
    with pytest.raises(ClientError, match=r"^JSON schema conversion failed:\n") as refused:
        require_valid(translate(msgspec.Raw(raw)))
    assert refused.value.status == 400
