from __future__ import annotations

import json

import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.ollama import pull


@pytest.mark.rule(103)
def test_pulling_a_served_model_shows_its_layer_as_complete() -> None:
    first, layer, *rest = [json.loads(line) for line in pull.success("ab" * 32, 10)]
    assert first == {"status": "pulling manifest"}
    assert layer == {
        "status": "pulling abababababab",
        "digest": "sha256:" + "ab" * 32,
        "total": 10,
        "completed": 10,
    }
    assert [line["status"] for line in rest] == ["verifying sha256 digest", "writing manifest", "success"]


def test_an_unknown_size_is_omitted() -> None:
    assert set(json.loads(pull.success("ab" * 32, 0)[1])) == {"status", "digest"}


@pytest.mark.rule(105)
def test_pulling_another_model_ends_in_the_error_that_the_cli_knows() -> None:
    lines = [json.loads(line) for line in pull.failure()]
    assert lines == [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]


@pytest.mark.rule(106)
def test_an_invalid_name_is_refused() -> None:
    pull.check_name("org/model:tag")
    with pytest.raises(BadRequest, match=r"^invalid model name$"):
        pull.check_name("/x")
