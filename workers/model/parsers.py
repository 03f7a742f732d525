"""Choose vLLM's tool-call and reasoning parsers for a model. Pure.

A wrong parser does harm (it can swallow whole answers), so the tables hold only sure matches, for vLLM 0.32.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from vllama_pool.workers.model.facts import ModelFacts
from vllama_pool.workers.vllm.flags import Flags

TOOLS = "--tool-call-parser"
AUTO = "--enable-auto-tool-choice"
REASONING = "--reasoning-parser"
NONE = "none"
"""Disables a parser; vLLM has none of this name."""


@dataclass(frozen=True, slots=True)
class ParserChoice:
    flags: tuple[str, ...] = ()
    """For vLLM's command line."""
    notes: tuple[str, ...] = ()
    """For the user."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Parsers for a model that meets all conditions. Conditions are patterns, except `special_tokens`."""

    parsers: tuple[str, ...]
    """Candidates in order of preference."""
    model_type: str = ""
    """Full value in config.json."""
    template_has: tuple[str, ...] = ()
    template_lacks: str = ""
    special_tokens: tuple[str, ...] = ()
    name: str = ""
    generation_prompt: str = ""

    def matches(self, facts: ModelFacts) -> bool:
        text = "\n".join(facts.templates)
        return (
            (not self.model_type or re.fullmatch(self.model_type, facts.model_type) is not None)
            and all(re.search(sign, text) for sign in self.template_has)
            and not (self.template_lacks and re.search(self.template_lacks, text))
            and facts.special_tokens.issuperset(self.special_tokens)
            and (not self.name or re.search(self.name, facts.name, re.IGNORECASE) is not None)
            and (not self.generation_prompt or re.search(self.generation_prompt, _generation_prompt(facts)) is not None)
        )


def choose(facts: ModelFacts, flags: Flags, offered: Collection[str] | None = None) -> ParserChoice:
    """Respect the user's `flags`. `offered`: parsers of this vLLM, None if unknown."""
    if facts.is_embedding or re.search(_BASE, facts.name) or flags.has("--config") or _pools(flags):
        return ParserChoice()
    tools, reasoning = _by_files(facts, offered) if facts.files else _by_name(facts.name, offered)
    chosen, notes = [], []
    if not flags.has(TOOLS) and (flags.on(AUTO) or not flags.has(AUTO)):
        if tools:
            chosen.append((TOOLS, tools))
        elif _mentions(_TOOLS, facts):
            notes.append(_unknown("tool calls", f"{AUTO} {TOOLS} NAME"))
    if not flags.has(REASONING) and not flags.begins("--structured-outputs-config"):
        if reasoning:
            chosen.append((REASONING, reasoning))
        elif _mentions(_THINKS, facts):
            notes.append(_unknown("thinking", f"{REASONING} NAME"))
    auto = (AUTO,) if (TOOLS, tools) in chosen and not flags.has(AUTO) else ()
    if chosen:
        parsers = " and ".join(" ".join(pair) for pair in chosen)
        notes.insert(0, f"chose {parsers} by the model's {'files' if facts.files else 'name'}")
    return ParserChoice((*auto, *(word for pair in chosen for word in pair)), tuple(notes))


def without_none(args: tuple[str, ...]) -> tuple[str, ...]:
    """Remove parsers called `none`, which vLLM does not accept."""
    kept: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name.replace("_", "-") in (TOOLS, REASONING):
            if equals and value.lower() == NONE:
                continue
            if not equals and rest and rest[0].lower() == NONE:
                del rest[0]
                continue
        kept.append(word)
    return tuple(kept)


_TOOL_RULES = (
    _Rule(("openai",), "gpt_oss"),
    _Rule(("gemma4",), "gemma4.*", (r"<\|tool_call>",)),
    _Rule(("functiongemma",), template_has=("<start_function_call>",)),
    _Rule(("glm45",), "glm4.*", ("<arg_key>",)),
    _Rule(("kimi_k2",), template_has=(r"<\|tool_calls_section_begin\|>",)),
    _Rule(("deepseek_v32",), "deepseek_v32"),
    _Rule(("deepseek_v31",), "deepseek_v3", (r"<｜tool▁calls▁begin｜>", r"\bthinking\b")),
    _Rule(("deepseek_v3",), "deepseek_v3", (r"<｜tool▁calls▁begin｜>",)),
    _Rule(("minimax_m2",), "minimax_m2", ("<minimax:tool_call>",)),
    _Rule(("seed_oss",), "seed_oss", ("<seed:tool_call>",)),
    _Rule(("longcat",), "longcat.*", ("<longcat_tool_call>",)),
    _Rule(("hunyuan_a13b",), "hunyuan_v1_moe", ("<tool_calls>",)),
    _Rule(("lfm2",), "lfm2.*", special_tokens=("<|tool_call_start|>",)),
    _Rule(("apertus",), "apertus", (r"<\|tools_prefix\|>",)),
    _Rule(("olmo3",), "olmo3", ("<function_calls>",)),
    _Rule(("jamba",), "jamba", ("<tool_calls>",), special_tokens=("<tool_calls>",)),
    _Rule(
        ("granite4", "hermes"),
        "granitemoe.+|granite",
        ("<tool_call>", '"arguments"'),
        template_lacks=r"<\|tool_call\|>",
    ),
    _Rule(("granite",), "granite.*", (r"<\|tool_call\|>",)),
    _Rule(("qwen3_coder", "qwen3_xml"), "qwen3.*|nemotron_h.*", ("<function=", "<parameter=")),
    _Rule(("phi4_mini_json",), "phi3|phi4.*", ("functools",)),
    _Rule(("llama4_pythonic",), "llama4.*", (r"\[func_name1\(",)),
    _Rule(
        ("llama3_json",),
        "llama|mllama",
        ('"parameters": dictionary of argument name',),
        template_lacks="<tool_call>",
        special_tokens=("<|python_tag|>",),
    ),
    _Rule(("mistral",), template_has=(r"\[TOOL_CALLS\]",)),
    _Rule(
        ("hermes",),
        "(?!ernie|hunyuan|glm|mimo|step|internlm).*",
        ("<tool_call>", '"name"', '"arguments"'),
        template_lacks=r"<arg_key>|<function=|<\|tool_call\|>",
    ),
)

_BASE = r"(?i)(^|[-_.])(base|pt)($|[-_.])"
"""Pre-trained models carry their variants' templates."""
_TOOLS = r"\btools\b"
_THINKS = r"\benable_thinking\b|</think>|\[THINK\]"
_OPENS = "<think>"
_REASONING_RULES = (
    _Rule(("openai_gptoss",), "gpt_oss"),
    _Rule(("gemma4",), "gemma4.*", (r"\benable_thinking\b",)),
    _Rule(("glm45",), "glm4.*", (r"\benable_thinking\b",)),
    _Rule(("seed_oss",), "seed_oss", ("<seed:think>",)),
    _Rule(("minimax_m2",), "minimax_m2", generation_prompt=_OPENS),
    _Rule(("kimi_k2",), "kimi_k2.*", (_OPENS,), name="thinking"),
    _Rule(("hunyuan_a13b",), "hunyuan_v1_moe", (r"\benable_thinking\b",)),
    _Rule(("olmo3",), "olmo3", generation_prompt=_OPENS),
    _Rule(("granite",), "granite.*", ("Here is my thought process",)),
    _Rule(("deepseek_v3",), "deepseek_v3", (r"\bthinking\b", "</think>")),
    _Rule(("deepseek_v3",), "deepseek_v32"),
    _Rule(("deepseek_r1",), "deepseek_v3", ("</think>",), name=r"\bR1\b"),
    _Rule(("deepseek_r1",), "qwen2|qwen3|llama", ("<｜Assistant｜>", "</think>")),
    _Rule(("deepseek_r1",), "qwen2", generation_prompt=_OPENS),
    _Rule(("qwen3",), "qwen3.*", generation_prompt=_OPENS),
    _Rule(("mistral",), "mistral.*", name="magistral"),
)

SPECIAL_TOKENS = frozenset(mark for rule in (*_TOOL_RULES, *_REASONING_RULES) for mark in rule.special_tokens)
"""Tokens that rules require."""

_COPIES = (
    r"(-(FP8|AWQ|GPTQ|NVFP4|MXFP4|W4A16|W8A8|INT4|INT8|BF16|bnb|4bit|8bit|dynamic|quantized|unsloth|\d+bits?)[\w.]*)*"
)
_NAMES = (
    # Full names of well-known models (_COPIES adds quantisation suffixes), tool parser, reasoning parser
    (r"Qwen3-Coder(-Next|-\d+B-A\d+B-Instruct)", "qwen3_coder", ""),
    (r"Qwen3(-Next)?-\d+B(-A\d+B)?-Instruct(-\d{4})?", "hermes", ""),
    (r"Qwen3(-Next)?-\d+B(-A\d+B)?-Thinking(-\d{4})?", "hermes", "qwen3"),
    (r"Qwen3-[\d.]+B(-A\d+B)?", "hermes", "qwen3"),
    (r"Qwen2\.5-[\d.]+B-Instruct(-1M)?", "hermes", ""),
    (r"QwQ-32B", "hermes", "deepseek_r1"),
    (r"gpt-oss-\d+b", "openai", "openai_gptoss"),
    (r"DeepSeek-R1-Distill-(Qwen|Llama)-[\d.]+B", "", "deepseek_r1"),
    (r"(Meta-)?Llama-3\.[123]-\d+B-Instruct", "llama3_json", ""),
    (r"Hermes-3-Llama-3\.[12]-\d+B", "hermes", ""),
    (r"(Mistral-7B-Instruct-v0\.3|Mistral-(Small|Nemo|Large)[\w.-]*Instruct-\d{4})", "mistral", ""),
    (r"GLM-4\.[56](-Air)?", "glm45", "glm45"),
)


def _by_files(facts: ModelFacts, offered: Collection[str] | None) -> tuple[str, str]:
    if facts.templates and not _mentions(_TOOLS, facts):
        return "", _first(_REASONING_RULES, facts, offered)
    tools = _first(_TOOL_RULES, facts, offered)
    if not tools and facts.mistral_tokenizer and re.search("instruct|devstral|magistral", facts.name, re.IGNORECASE):
        tools = _available(("mistral",), offered)
    return tools, _first(_REASONING_RULES, facts, offered)


def _by_name(name: str, offered: Collection[str] | None) -> tuple[str, str]:
    for pattern, tools, reasoning in _NAMES:
        if re.fullmatch(pattern + _COPIES, name, re.IGNORECASE):
            return _available((tools,), offered), _available((reasoning,), offered)
    return "", ""


def _first(rules: tuple[_Rule, ...], facts: ModelFacts, offered: Collection[str] | None) -> str:
    return next((_available(rule.parsers, offered) for rule in rules if rule.matches(facts)), "")


def _available(parsers: tuple[str, ...], offered: Collection[str] | None) -> str:
    return next((name for name in parsers if offered is None or name in offered), "")


def _mentions(pattern: str, facts: ModelFacts) -> bool:
    return any(re.search(pattern, template) for template in facts.templates)


def _pools(flags: Flags) -> bool:
    return flags.value("--runner") == "pooling" or flags.value("--task") not in (None, "auto", "generate")


def _generation_prompt(facts: ModelFacts) -> str:
    _, marker, rest = (facts.templates or ("",))[0].rpartition("add_generation_prompt")
    return rest if marker else ""


def _unknown(what: str, words: str) -> str:
    return f"its template supports {what}, but no parser for it is known; if vLLM has one, give {words}"
