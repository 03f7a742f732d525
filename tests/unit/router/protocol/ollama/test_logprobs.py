from __future__ import annotations

import msgspec
import pytest

from vllama_pool.router.protocol.ollama.logprobs import translate
from vllama_pool.router.protocol.vllm.api import VllmLogprobs, VllmTokenLogprob

CHAT = VllmLogprobs(
    content=[
        VllmTokenLogprob(" é", -0.5, [VllmTokenLogprob("b", -2.0), VllmTokenLogprob(" é", -0.5)]),
        VllmTokenLogprob("x", None, None),
    ]
)
COMPLETION = VllmLogprobs(tokens=[" é", "x"], token_logprobs=[-0.5, None], top_logprobs=[{"b": -2.0, " é": -0.5}, None])


@pytest.mark.rule(64, 65)
@pytest.mark.parametrize("given", [CHAT, COMPLETION], ids=["chat", "completion"])
def test_both_formats_become_the_same_entries_best_alternative_first(given: VllmLogprobs) -> None:
    assert msgspec.to_builtins(translate(given, 2)) == [
        {
            "token": " é",
            "logprob": -0.5,
            "bytes": [32, 195, 169],
            "top_logprobs": [
                {"token": " é", "logprob": -0.5, "bytes": [32, 195, 169]},
                {"token": "b", "logprob": -2.0, "bytes": [98]},
            ],
        },
        {"token": "x", "logprob": -9999.0, "bytes": [120], "top_logprobs": []},
    ]


@pytest.mark.rule(65)
@pytest.mark.parametrize(("top", "count"), [(0, None), (1, 1), (20, 2)])
def test_alternatives_are_limited_to_the_requested_number(top: int, count: int | None) -> None:
    alternatives = translate(CHAT, top)[0].top_logprobs
    assert (None if alternatives is None else len(alternatives)) == count


def test_a_logprob_is_never_above_zero() -> None:
    assert translate(VllmLogprobs(content=[VllmTokenLogprob("x", 0.25)]), 0)[0].logprob == 0.0


def test_a_completions_lists_may_have_different_lengths() -> None:
    assert [entry.token for entry in translate(VllmLogprobs(tokens=["a", "b"], token_logprobs=[-1.0]), 0)] == ["a", "b"]
    assert translate(VllmLogprobs(token_logprobs=[-1.0]), 0) == []
