import pytest

from vllama_pool.router.errors import BadRequest, Forbidden, ModelNotFound
from vllama_pool.router.protocol.ollama.not_found import unknown_model


@pytest.mark.rule(38, 147, 149)
def test_unknown_names_have_ollamas_errors() -> None:
    assert isinstance(unknown_model("nope", "gone"), ModelNotFound)
    bad = unknown_model("/x", "gone")
    assert (type(bad), bad.text) == (BadRequest, "invalid model name")
    cloud = unknown_model("x:cloud", "gone")
    assert (type(cloud), cloud.text) == (Forbidden, "ollama cloud is disabled: remote model is unavailable")
    assert unknown_model("x:local:cloud", "gone").status == 400
