"""Answers as a function of the prompt's tokens, so that all simulated workers agree:

    Simulated answer to: What is 2+2?. I count: one two three four …

A prompt that ends in a partial answer gets the rest, so another worker can continue it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from vllama_pool.workers.simulated import vocabulary as v

QUESTION_WORDS = 12
MAX_DEPTH = 8


class Kind(enum.IntEnum):
    """Destination of a token's text."""

    HIDDEN = 0
    """Markup, removed by a parser."""
    REASONING = 1
    CONTENT = 2
    CALL = 3
    """Last token before the arguments, with the function's name."""
    ARGUMENTS = 4


class Token(NamedTuple):
    id: int
    text: str
    kind: Kind
    json: bytes


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    thinking: bool = False
    calls: tuple[Call, ...] = ()
    calls_finish: str = "tool_calls"
    document: str | None = None
    length: int = 64
    """Tokens."""


@dataclass(frozen=True, slots=True)
class SimulatedText:
    """An endless sequence of tokens and its natural end."""

    head: tuple[Token, ...]
    natural: int
    """Tokens before the end-of-text token."""
    finish: str = "stop"
    skip: int = 0
    """Tokens already in the prompt."""
    content_kind: Kind = Kind.CONTENT

    def token(self, index: int) -> Token:
        """Past the head, the answer counts forever."""
        index += self.skip
        token = self.head[index] if index < len(self.head) else COUNT[(index - len(self.head)) % len(COUNT)]
        if self.content_kind is not Kind.CONTENT and token.kind is Kind.CONTENT:
            return token._replace(kind=self.content_kind)
        return token


def _tokens(ids: Sequence[int], kind: Kind) -> list[Token]:
    return [Token(token, text, kind, msgspec.json.encode(text)) for token, text in zip(ids, v.texts(ids), strict=True)]


def _hidden(*ids: int) -> list[Token]:
    return [Token(token, "", Kind.HIDDEN, b'""') for token in ids]


COUNT = tuple(_tokens(v.encode("".join(v.NUMBERS)), Kind.CONTENT))
ASSISTANT = (v.IM_START, *v.encode("assistant\n"))
_USER = (v.IM_START, *v.encode("user\n"))
NO_THINKING = (v.THINK, *v.encode("\n\n"), v.END_THINK, *v.encode("\n\n"))
"""The template's text if thinking is off."""
_OPENING = tuple(_tokens((v.MARK, *v.encode(" answer to: ")), Kind.CONTENT))
_TO_COUNT = tuple(_tokens(v.encode(". I count:"), Kind.CONTENT))
_REASONING = (
    *_hidden(v.THINK),
    *_tokens(v.encode("\nThe user asked something. I repeat their words.\n"), Kind.REASONING),
    *_hidden(v.END_THINK),
)
_AFTER_REASONING = tuple(_tokens(v.encode("\n\n"), Kind.CONTENT))


def begins_answer(prompt: Sequence[int]) -> bool:
    """Return True if a reasoning model would start to think here."""
    return tuple(prompt[-len(ASSISTANT) :]) == ASSISTANT


def has_think_tag(prompt: Sequence[int]) -> bool:
    return v.THINK in prompt or v.END_THINK in prompt


def answer(prompt: Sequence[int], plan: AnswerPlan) -> SimulatedText:
    """Return the answer to a prompt, or the rest of one."""
    base, done = _split(prompt)
    if not done:
        return _whole(base, plan)
    whole = _whole(base, AnswerPlan(thinking=done[0] == v.THINK, length=plan.length))
    if all(whole.token(index).id == token for index, token in enumerate(done)):
        rest = max(0, whole.natural - len(done))
        return SimulatedText(whole.head, rest, skip=len(done))
    return SimulatedText((), plan.length)


def as_reasoning(rest: SimulatedText) -> SimulatedText:
    """Return a continuation as vLLM's parser of a thinking model reads it: no tag ends the thinking."""
    return replace(rest, content_kind=Kind.REASONING)


def _whole(base: Sequence[int], plan: AnswerPlan) -> SimulatedText:
    head: list[Token] = []
    if plan.thinking:
        head += _REASONING
        head += _AFTER_REASONING
    if plan.calls:
        for call in plan.calls:
            head += _call(call)
        return SimulatedText(tuple(head), len(head), plan.calls_finish)
    if plan.document is not None:
        head += _tokens(v.encode(plan.document), Kind.CONTENT)
        return SimulatedText(tuple(head), len(head))
    before = len(head)
    head += _OPENING
    head += _tokens(v.encode(question(base)), Kind.CONTENT)
    head += _TO_COUNT
    return SimulatedText(tuple(head), before + plan.length)


def _call(call: Call) -> list[Token]:
    """Return Hermes markup."""
    opening = v.encode('\n{"name": "' + call.name + '", "arguments": ')
    *markup, last = _hidden(v.TOOL_CALL, *opening)
    return [
        *markup,
        last._replace(text=call.name, kind=Kind.CALL),
        *_tokens(v.encode(call.arguments), Kind.ARGUMENTS),
        *_hidden(*v.encode("}\n"), v.END_TOOL_CALL),
    ]


def _split(prompt: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Split a prompt from the beginning of its answer."""
    start = _rfind(prompt, ASSISTANT)
    if start >= 0:
        end = start + len(ASSISTANT)
        if tuple(prompt[end : end + len(NO_THINKING)]) == NO_THINKING:
            end += len(NO_THINKING)
        if v.IM_END not in prompt[end:]:
            return prompt[:end], prompt[end:]
    if v.MARK in prompt:
        end = list(prompt).index(v.MARK)
        return prompt[:end], prompt[end:]
    return prompt, ()


def question(prompt: Sequence[int]) -> str:
    start = _rfind(prompt, _USER)
    rest = list(prompt[start + len(_USER) :] if start >= 0 else prompt)
    if start >= 0 and v.IM_END in rest:
        rest = rest[: rest.index(v.IM_END)]
    words = v.decode(token for token in rest if not v.IM_START <= token < v.MARK).split()
    return " ".join(words[:QUESTION_WORDS])


def _rfind(tokens: Sequence[int], part: tuple[int, ...]) -> int:
    for start in range(len(tokens) - len(part), -1, -1):
        if tokens[start] == part[0] and tuple(tokens[start : start + len(part)]) == part:
            return start
    return -1


@dataclass(slots=True)
class _Builder:
    words: str
    definitions: Mapping[str, Any] = field(default_factory=dict)

    def build(self, schema: Any, depth: int = 0) -> Any:
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for key in ("anyOf", "oneOf", "allOf"):
            if schema.get(key):
                return self.build(schema[key][0], depth + 1)
        if isinstance(schema.get("$ref"), str):
            return self.build(self.definitions.get(schema["$ref"].rsplit("/", 1)[-1]), depth + 1)
        kind = schema.get("type", "object")
        return self._typed(kind[0] if isinstance(kind, list) and kind else kind, schema, depth)

    def _typed(self, kind: Any, schema: Mapping[str, Any], depth: int) -> Any:
        if kind == "object":
            properties = schema.get("properties") or {}
            return {name: self.build(part, depth + 1) for name, part in properties.items()}
        if kind == "array":
            count = max(1, int(schema.get("minItems", 1)))
            return [self.build(schema.get("items", {"type": "string"}), depth + 1)] * min(count, 16)
        if kind == "string":
            return self.words[: schema.get("maxLength")]
        if kind in ("integer", "number"):
            return schema.get("minimum", 1)
        return {"boolean": True, "null": None}[kind]


TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))


def invalid_type(schema: Any) -> str | None:
    """Return the first unknown JSON Schema type."""
    if isinstance(schema, list):
        return next((bad for part in schema if (bad := invalid_type(part))), None)
    if not isinstance(schema, dict):
        return None
    kind = schema.get("type")
    for name in kind if isinstance(kind, list) else [kind]:
        if isinstance(name, str) and name not in TYPES:
            return name
    return next((bad for key, part in schema.items() if key != "enum" and (bad := invalid_type(part))), None)


def document(schema: Mapping[str, Any] | None, words: str) -> str:
    """Return JSON that matches the schema."""
    if schema is None:
        return json.dumps({"simulated": True, "answer": words}, ensure_ascii=False)
    definitions = schema.get("$defs") or schema.get("definitions") or {}
    return json.dumps(_Builder(words, definitions).build(schema), ensure_ascii=False)


def untagged(whole: SimulatedText) -> SimulatedText:
    """Return the answer with its markup as plain text."""
    if all(token.kind is Kind.CONTENT for token in whole.head):
        return whole
    ids = [token.id for token in whole.head]
    return SimulatedText(tuple(_tokens(ids, Kind.CONTENT)), whole.natural, "stop", whole.skip)
