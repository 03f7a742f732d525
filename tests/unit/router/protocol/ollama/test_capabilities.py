from __future__ import annotations

import pytest

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.ollama.capabilities import require, require_completion
from vllama_pool.workers.registry.record import ModelInfo

CHAT = ModelInfo(name="m", capabilities=("completion", "tools"))
EMBED = ModelInfo(name="m", capabilities=("embedding",))


@pytest.mark.rule(156, 157)
def test_completion_is_required_by_the_name_as_requested() -> None:
    require_completion("chat", "M", CHAT)
    with pytest.raises(BadRequest, match=r'^"M" does not support generate$'):
        require_completion("generate", "M", EMBED)


@pytest.mark.rule(159)
def test_every_missing_capability_is_listed_with_the_full_name() -> None:
    require(["tools"], "m", CHAT)
    with pytest.raises(BadRequest) as refused:
        require(["tools", "vision", "audio"], "m", CHAT)
    name = "registry.ollama.ai/library/m:latest"
    assert refused.value.text == f"{name} does not support vision\n{name} does not support audio"


@pytest.mark.rule(159)
def test_a_name_outside_ollamas_grammar_is_unchanged() -> None:
    with pytest.raises(BadRequest, match=r"^a b does not support vision$"):
        require(["vision"], "a b", CHAT)
