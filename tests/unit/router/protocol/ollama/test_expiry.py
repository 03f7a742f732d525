"""Expiry times of /api/ps."""

import pytest

from vllama_pool.config.durations import FOREVER
from vllama_pool.router.protocol.ollama.expiry import MAX_MODELS, ExpiryTracker

MINUTE = 60 * 10**9


@pytest.mark.rule(93)
def test_a_model_lives_for_its_keep_alive_after_the_last_request() -> None:
    expiry = ExpiryTracker(5 * MINUTE)
    assert not expiry.lives("v", 0)
    expiry.touch("v", None, 10 * MINUTE)
    assert expiry.lives("v", 15 * MINUTE - 1)
    assert not expiry.lives("v", 15 * MINUTE)
    expiry.touch("v", FOREVER, 0)
    assert expiry.lives("v", 10**6 * MINUTE)
    expiry.touch("v", 0, 0)
    assert not expiry.lives("v", 0)


def test_the_least_recently_used_models_are_forgotten() -> None:
    expiry = ExpiryTracker(MINUTE)
    expiry.touch("first", None, 0)
    for number in range(MAX_MODELS - 1):
        expiry.touch(f"v{number}", None, 0)
    expiry.touch("first", None, 1)
    expiry.touch("one more", None, 1)
    assert expiry.lives("first", 2)
    assert not expiry.lives("v0", 2)
