"""White space between the parts of JSON is bounded, unless the user or the tokenizer wants it otherwise."""

import json

import pytest

from vllama_pool.workers.model.facts import ModelFacts
from vllama_pool.workers.model.structured_outputs import CONFIG, structured_output_flags
from vllama_pool.workers.vllm.flags import Flags


def test_default_flags_disable_white_space_in_json() -> None:
    name, value = structured_output_flags(ModelFacts("Qwen3-8B"), Flags(()))
    assert name == CONFIG
    assert json.loads(value) == {"backend": "guidance", "disable_any_whitespace": True}


@pytest.mark.parametrize(
    "words",
    [
        (CONFIG, '{"backend": "xgrammar"}'),
        (f"{CONFIG}={{}}",),
        (f"{CONFIG}.backend", "auto"),
        ("--structured_outputs_config.backend", "auto"),
        ("--config", "vllm.yaml"),
    ],
)
def test_the_users_structured_output_flags_are_respected(words: tuple[str, ...]) -> None:
    assert structured_output_flags(ModelFacts("Qwen3-8B"), Flags(words)) == ()


@pytest.mark.parametrize(
    "facts",
    [
        ModelFacts("all-minilm", is_embedding=True),
        ModelFacts("any", mistral_tokenizer=True),
        *(ModelFacts(name) for name in ("Mistral-7B-Instruct-v0.3", "Mixtral-8x7B", "Ministral-8B", "Codestral-22B")),
    ],
)
def test_unsupported_models_get_no_structured_output_flags(facts: ModelFacts) -> None:
    assert structured_output_flags(facts, Flags(())) == ()
