"""A context smaller than the worker's."""

import msgspec
import pytest

from tests.support.protocol import MODEL
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import Refused
from vllama_pool.router.protocol.vllm import window
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED

SMALL = Defaults(context=100)
LONG = msgspec.structs.replace(MODEL, context_length=8192)


@pytest.mark.parametrize(("own", "limit", "left"), [(8192, 100, 100), (64, 100, None), (100, 100, None), (0, 100, 100)])
def test_only_a_context_below_the_models_own_is_a_limit(own: int, limit: int, left: int | None) -> None:
    info = msgspec.structs.replace(MODEL, context_length=own)
    assert window.window_of(info, Defaults(context=limit)) == left
    assert window.narrowed(info, Defaults(context=limit)).context_length == (left or own)


def test_a_model_without_a_limit_is_unchanged() -> None:
    assert window.window_of(LONG, NO_DEFAULTS) is None
    assert window.narrowed(LONG, NO_DEFAULTS) is LONG


def test_a_prompt_surely_fits_if_its_bytes_and_the_answer_do() -> None:
    assert window.surely_fits(b"x" * 100, 144, 500)
    assert not window.surely_fits(b"x" * 100, 145, 500)
    assert not window.surely_fits(b"x", None, 5000)
    assert not window.surely_fits(b'{"image_url":{"url":"data:"}}', 1, 5000)


def test_a_prompt_that_leaves_no_room_is_refused_as_by_vllm() -> None:
    assert window.room_after(99, 100) == 1
    with pytest.raises(Refused) as caught:
        window.room_after(100, 100)
    assert (caught.value.status, caught.value.text) == (400, CONTEXT_EXCEEDED)
    assert caught.value.original.startswith(
        "This model's maximum context length is 100 tokens. However, your request has"
    )


@pytest.mark.parametrize(("first", "second", "lower"), [(None, None, None), (1, None, 1), (None, 2, 2), (3, 2, 2)])
def test_the_lower_of_two_limits_counts(first: int | None, second: int | None, lower: int | None) -> None:
    assert window.lower(first, second) == lower
