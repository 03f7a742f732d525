from __future__ import annotations

import pytest

from vllama_pool.router.errors import BadRequest, ModelNotFound
from vllama_pool.router.protocol.ollama import copying


@pytest.mark.rule(146)
@pytest.mark.trap(12)
def test_delete_accepts_model_or_name_and_requires_one() -> None:
    assert copying.decode_delete(b'{"model":"","name":"a"}').requested == "a"
    assert copying.decode_delete(b'{"model":"b","name":"a"}').requested == "b"
    for body in (b"{}", b'{"model":" "}'):
        with pytest.raises(BadRequest, match=r"^model is required$"):
            copying.decode_delete(body)


@pytest.mark.rule(147, 148, 149)
@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("nope", ModelNotFound, "model 'nope' not found"),
        ('a"b', BadRequest, 'name "a\\"b" is invalid'),
    ],
)
def test_deleting_an_unknown_name_has_ollamas_errors(name: str, kind: type, text: str) -> None:
    error = copying.no_such_model(name)
    assert (type(error), error.text) == (kind, text)


@pytest.mark.rule(148)
def test_copying_an_unknown_source_names_it_in_double_quotes() -> None:
    assert copying.no_source("nope").text == 'model "nope" not found'
