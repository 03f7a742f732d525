from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.protocol import MODEL, THINKER
from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.ollama.think_option import (
    Thinking,
    check_capability,
    check_think,
    explain_refusal,
    is_refusal,
    translate,
)
from vllama_pool.workers.registry.record import ModelInfo

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


UNDETECTED = msgspec.structs.replace(MODEL, undetected=("tools", "thinking"))
NO_SWITCH = Refused("chat_template is not supported for Mistral tokenizers.", status=400)
NO_EFFORT = Refused("reasoning_effort=<ReasoningEffort.high: 'high'> is not supported for this model", status=400)


@pytest.mark.rule(95)
@pytest.mark.parametrize(
    ("value", "sent"), [(None, Thinking()), (True, Thinking(ON)), (False, Thinking(OFF)), ("low", Thinking(ON, "low"))]
)
def test_a_model_that_may_think_gets_what_the_request_says(value: Any, sent: Thinking) -> None:
    check_capability(value, "MyModel", UNDETECTED)
    assert translate(value, UNDETECTED) == sent


@pytest.mark.parametrize("info", [UNDETECTED, THINKER], ids=["undetected", "known"])
@pytest.mark.parametrize(("value", "effort"), [(True, "high"), ("low", "high"), (False, "none")])
def test_a_refused_switch_becomes_mistrals_effort(value: Any, effort: str, info: ModelInfo) -> None:
    assert translate(value, info, [NO_SWITCH]) == Thinking(None, effort)
    assert translate(value, info, [NO_SWITCH, NO_EFFORT]) == Thinking()


@pytest.mark.rule(158)
def test_a_workers_refusal_to_think_has_ollamas_text() -> None:
    assert all(map(is_refusal, (NO_SWITCH, NO_EFFORT)))
    assert not is_refusal(Refused("top_k must be -1", status=400))
    for value, refusal in ((True, NO_SWITCH), (False, NO_EFFORT), (None, NO_EFFORT)):
        explain_refusal(refusal, value, "MyModel")
    with pytest.raises(Refused) as refused:
        explain_refusal(NO_EFFORT, True, "MyModel")
    assert (refused.value.status, refused.value.text) == (400, '"MyModel" does not support thinking')
