from __future__ import annotations

import pytest

from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.capabilities import explain_refusal, require, require_completion
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


@pytest.mark.rule(159)
def test_an_undetected_capability_is_not_missing() -> None:
    info = ModelInfo(name="m", undetected=("vision",))
    require(["vision"], "m", info)
    with pytest.raises(BadRequest, match=r"m:latest does not support tools$"):
        require(["tools", "vision"], "m", info)


NO_TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
NO_MEDIA = "m is not a multimodal model"


@pytest.mark.rule(159)
@pytest.mark.parametrize(
    ("text", "media", "missing"),
    [
        (NO_TOOLS, [], ["tools"]),
        (NO_TOOLS, ["vision"], ["tools"]),
        ('tool_choice="required" requires --tool-call-parser to be set', [], ["tools"]),
        (NO_MEDIA, ["vision"], ["vision"]),
        (NO_MEDIA, ["vision", "audio"], ["vision", "audio"]),
        ("At most 0 image(s) may be provided in one prompt.", ["vision"], ["vision"]),
    ],
)
def test_a_workers_refusal_of_a_missing_capability_has_ollamas_text(
    text: str, media: list[str], missing: list[str]
) -> None:
    with pytest.raises(Refused) as refused:
        explain_refusal(Refused(text, status=400), "m", media)
    lines = [f"registry.ollama.ai/library/m:latest does not support {name}" for name in missing]
    assert (refused.value.status, refused.value.text) == (400, "\n".join(lines))


@pytest.mark.parametrize("text", ["At most 1 image(s) may be provided in one prompt.", "top_k must be -1", ""])
def test_other_refusals_of_a_worker_are_unchanged(text: str) -> None:
    explain_refusal(Refused(text, status=400), "m", ["vision"])
    explain_refusal(Refused(NO_MEDIA, status=400), "m", [])
