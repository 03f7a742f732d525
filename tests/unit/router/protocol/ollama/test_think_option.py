from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.protocol import MODEL, THINKER
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.ollama.think_option import Thinking, check_capability, check_think, translate

ON = {"enable_thinking": True, "thinking": True}
OFF = {"enable_thinking": False, "thinking": False}


@pytest.mark.rule(94)
@pytest.mark.parametrize("value", [None, True, False, "high", "medium", "low", "max"])
def test_think_is_a_bool_or_one_of_four_levels(value: Any) -> None:
    check_think(value)


@pytest.mark.rule(94)
@pytest.mark.parametrize("value", ["", "x", "High"])
def test_an_unknown_think_level_is_refused(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_think(value)
    assert caught.value.text == (
        f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)'
    )


@pytest.mark.rule(94)
@pytest.mark.parametrize("value", [1, 0.5, [], {}])
def test_a_think_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_think(value)
    assert caught.value.text == 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'


@pytest.mark.rule(95, 158)
@pytest.mark.parametrize("value", [True, "low", "max"])
def test_thinking_is_refused_for_a_model_without_the_capability(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_capability(value, "MyModel", MODEL)
    assert (caught.value.status, caught.value.text) == (400, '"MyModel" does not support thinking')


@pytest.mark.rule(95)
def test_think_false_is_accepted_by_any_model() -> None:
    for value in (None, False):
        check_capability(value, "MyModel", MODEL)
        assert translate(value, MODEL) == Thinking()


@pytest.mark.rule(95, 97)
@pytest.mark.trap(8)
@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (None, Thinking(ON)),
        (True, Thinking(ON)),
        (False, Thinking(OFF)),
        ("low", Thinking(ON, "low")),
        ("max", Thinking(ON, "max")),
    ],
)
def test_thinking_is_on_unless_turned_off(value: Any, sent: Thinking) -> None:
    assert translate(value, THINKER) == sent


@pytest.mark.rule(96)
@pytest.mark.parametrize(
    ("value", "effort"), [(None, "medium"), (True, "medium"), ("max", "high"), ("low", "low"), (False, "low")]
)
def test_gpt_oss_has_three_levels(value: Any, effort: str) -> None:
    assert translate(value, msgspec.structs.replace(THINKER, architecture="gpt_oss")).effort == effort


def test_mistrals_tokenizer_gets_no_template_arguments() -> None:
    info = msgspec.structs.replace(THINKER, architecture="mistral3", template="")
    assert translate(None, info) == Thinking(None, "high")
    assert translate(False, info) == Thinking(None, "none")
