"""How long models are shown as loaded."""

import pytest

from vllama_pool.router.protocol.ollama.durations import FOREVER
from vllama_pool.router.protocol.ollama.lifetimes import REMEMBERED, Lifetimes

MINUTE = 60 * 10**9


@pytest.mark.rule(93)
def test_a_model_lives_from_the_end_of_its_last_request_on() -> None:
    lifetimes = Lifetimes(5 * MINUTE)
    assert not lifetimes.lives("v", 0)
    lifetimes.touch("v", None, 10 * MINUTE)
    assert lifetimes.lives("v", 15 * MINUTE - 1)
    assert not lifetimes.lives("v", 15 * MINUTE)
    lifetimes.touch("v", FOREVER, 0)
    assert lifetimes.lives("v", 10**6 * MINUTE)
    lifetimes.touch("v", 0, 0)
    assert not lifetimes.lives("v", 0)


def test_the_models_asked_for_longest_ago_are_forgotten() -> None:
    lifetimes = Lifetimes(MINUTE)
    lifetimes.touch("first", None, 0)
    for number in range(REMEMBERED - 1):
        lifetimes.touch(f"v{number}", None, 0)
    lifetimes.touch("first", None, 1)
    lifetimes.touch("one more", None, 1)
    assert lifetimes.lives("first", 2)
    assert not lifetimes.lives("v0", 2)
