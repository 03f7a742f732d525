"""Parsers are chosen by a model's files, else by a known name, and never against the user's flags."""

from __future__ import annotations

import pytest

from vllama_pool.workers.model.facts import ModelFacts
from vllama_pool.workers.model.parsers import SPECIAL_TOKENS, choose, without_none
from vllama_pool.workers.vllm.flags import Flags

HERMES = (
    '{% if tools %}<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
)
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n"
HYBRID = HERMES + ASKS + "{% if enable_thinking is false %}<think>\n\n</think>{% endif %}{% endif %}"
CODER = "{% if tools %}<tool_call>\n<function=name>\n<parameter=x>{% endif %}" + ASKS + "{% endif %}"
LLAMA = 'Given tools: {"name": function name, "parameters": dictionary of argument name and its value}'
DEEPSEEK = (
    "<｜Assistant｜>{{ content.split('</think>') }}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)


def chosen(model_type: str, *templates: str, flags: tuple[str, ...] = (), **known: object) -> tuple[str, str]:
    """Return the tool-call and the reasoning parser."""
    fields = {"name": "m", "files": True, "model_type": model_type, "templates": templates, **known}
    found = Flags(choose(ModelFacts(**fields), Flags(flags)).flags)  # type: ignore[arg-type]
    assert found.on("--enable-auto-tool-choice") == found.has("--tool-call-parser")
    return found.value("--tool-call-parser") or "", found.value("--reasoning-parser") or ""


@pytest.mark.parametrize(
    ("model_type", "template", "parsers"),
    [
        ("qwen2", HERMES, ("hermes", "")),
        ("qwen3", HYBRID, ("hermes", "qwen3")),
        ("qwen3_moe", HERMES + ASKS + "{% endif %}", ("hermes", "")),
        ("qwen3", HERMES + ASKS + "<think>\n{% endif %}", ("hermes", "qwen3")),
        ("qwen2", HERMES + ASKS + "<think>\n{% endif %}", ("hermes", "deepseek_r1")),
        ("qwen3_moe", CODER, ("qwen3_coder", "")),
        ("qwen3_5", CODER + ASKS + "<think>{% endif %}", ("qwen3_coder", "qwen3")),
        ("qwen2", DEEPSEEK, ("", "deepseek_r1")),
        ("llama", DEEPSEEK, ("", "deepseek_r1")),
        (
            "deepseek_v3",
            "{{ tools }}{% if thinking %}</think>{% endif %}<｜tool▁calls▁begin｜>",
            ("deepseek_v31", "deepseek_v3"),
        ),
        ("gpt_oss", "{{ tools }}<|channel|>", ("openai", "openai_gptoss")),
        ("granite", "{{ tools }}<|tool_call|> Here is my thought process:", ("granite", "granite")),
        ("granitemoehybrid", HERMES, ("granite4", "")),
        ("glm4_moe", "{{ tools }}<tool_call>name\n<arg_key>{{ enable_thinking }}", ("glm45", "glm45")),
        ("phi3", "{{ tools }}functools[...]", ("phi4_mini_json", "")),
        ("phi3", "{{ tools }}<|tool|>", ("", "")),
        ("seed_oss", "{{ tools }}<seed:tool_call><seed:think>", ("seed_oss", "seed_oss")),
        ("gemma3", "{{ messages }}", ("", "")),
        ("mistral", "{{ tools }}[TOOL_CALLS]", ("mistral", "")),
        ("ernie4_5_moe", HERMES, ("", "")),
    ],
)
def test_parsers_are_chosen_by_model_type_and_template(
    model_type: str, template: str, parsers: tuple[str, str]
) -> None:
    assert chosen(model_type, template) == parsers


def test_a_parser_that_needs_a_token_requires_it_in_the_tokenizer() -> None:
    assert chosen("llama", LLAMA, special_tokens=frozenset({"<|python_tag|>"})) == ("llama3_json", "")
    assert chosen("llama", LLAMA) == ("", "")
    assert "<|python_tag|>" in SPECIAL_TOKENS


def test_parsers_without_a_template_are_chosen_by_type_or_tokenizer() -> None:
    assert chosen("mistral3", mistral_tokenizer=True, name="Mistral-Small-3.2-24B-Instruct-2506") == ("mistral", "")
    assert chosen("mistral", mistral_tokenizer=True, name="Magistral-Small-2509") == ("mistral", "mistral")
    assert chosen("mistral", mistral_tokenizer=True, name="Mistral-7B-v0.3") == ("", "")
    assert chosen("deepseek_v32") == ("deepseek_v32", "deepseek_v3")


def test_no_tool_parser_is_chosen_if_the_template_has_no_tools() -> None:
    assert chosen("qwen3", HYBRID.replace("tools", "xml_tools")) == ("", "qwen3")
    assert chosen("llama", "{{ messages }}") == ("", "")


@pytest.mark.parametrize(
    ("name", "parsers"),
    [
        ("Qwen3-8B", ("hermes", "qwen3")),
        ("Qwen3-30B-A3B-GPTQ-Int4", ("hermes", "qwen3")),
        ("qwen3-4b-instruct-2507-fp8", ("hermes", "")),
        ("Qwen3-4B-Thinking-2507", ("hermes", "qwen3")),
        ("Qwen3-Coder-30B-A3B-Instruct", ("qwen3_coder", "")),
        ("Qwen2.5-7B-Instruct-AWQ", ("hermes", "")),
        ("gpt-oss-20b", ("openai", "openai_gptoss")),
        ("Llama-3.1-8B-Instruct", ("llama3_json", "")),
        ("DeepSeek-R1-Distill-Qwen-7B", ("", "deepseek_r1")),
        ("Qwen3-Embedding-8B", ("", "")),
        ("Qwen3-8B-Base", ("", "")),
        ("Qwen3-8B-my-finetune", ("", "")),
        ("Llama-3.1-8B", ("", "")),
        ("SmolLM2-135M-Instruct", ("", "")),
    ],
)
def test_parsers_before_the_download_are_chosen_by_a_known_name(name: str, parsers: tuple[str, str]) -> None:
    assert chosen("", name=name, files=False) == parsers


@pytest.mark.parametrize(
    ("flags", "parsers"),
    [
        (("--tool-call-parser", "none"), ("", "qwen3")),
        (("--tool_call_parser=xlam",), ("", "qwen3")),
        (("--no-enable-auto-tool-choice",), ("", "qwen3")),
        (("--reasoning-parser", "none"), ("hermes", "")),
        (("--reasoning-parser", "deepseek_r1", "--tool-call-parser", "hermes"), ("", "")),
        (("--config", "serve.yaml"), ("", "")),
        (("--runner", "pooling"), ("", "")),
    ],
)
def test_the_users_parser_flags_are_respected(flags: tuple[str, ...], parsers: tuple[str, str]) -> None:
    assert chosen("qwen3", HYBRID, flags=flags) == parsers


def test_auto_tool_choice_alone_gets_its_parser() -> None:
    facts = ModelFacts("m", files=True, model_type="qwen2", templates=(HERMES,))
    assert choose(facts, Flags(["--enable-auto-tool-choice"])).flags == ("--tool-call-parser", "hermes")


def test_embedding_and_pre_trained_models_get_no_parsers() -> None:
    assert chosen("qwen3", HYBRID, is_embedding=True) == ("", "")
    assert chosen("qwen3", HYBRID, name="Qwen3-8B-Base") == ("", "")
    assert chosen("qwen3", HYBRID, name="Database-Qwen3-8B") == ("hermes", "qwen3")


def test_only_parsers_offered_by_this_vllm_are_chosen() -> None:
    granite = ModelFacts("m", files=True, model_type="granite", templates=(HERMES,))
    assert "granite4" in choose(granite, Flags(()), {"granite4", "hermes"}).flags
    assert "hermes" in choose(granite, Flags(()), {"hermes"}).flags
    assert choose(granite, Flags(()), {"mistral"}).flags == ()


def test_chosen_and_missing_parsers_are_noted() -> None:
    known = choose(ModelFacts("m", files=True, model_type="qwen3", templates=(HYBRID,)), Flags(()))
    assert known.notes == ("chose --tool-call-parser hermes and --reasoning-parser qwen3 by the model's files",)
    novel = choose(ModelFacts("m", files=True, model_type="novel", templates=("{{ tools }}</think>",)), Flags(()))
    assert novel.flags == ()
    tools, thinking = novel.notes
    assert tools.endswith("give --enable-auto-tool-choice --tool-call-parser NAME")
    assert thinking.endswith("give --reasoning-parser NAME")
    assert choose(ModelFacts("m", files=True, model_type="llama", templates=("{{ messages }}",)), Flags(())).notes == ()


def test_a_parser_called_none_never_reaches_vllm() -> None:
    given = ("--a", "none", "--tool-call-parser", "none", "--reasoning_parser=None", "--tool-call-parser", "hermes")
    assert without_none(given) == ("--a", "none", "--tool-call-parser", "hermes")
    assert without_none(("--tool-call-parser",)) == ("--tool-call-parser",)
