"""The answer of Ollama's engine, before it has the format of a route."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.compat.models import ModelChoice

MODELS = ModelChoice(
    chat="chat:latest",
    embed="embed:latest",
    thinking="think:latest",
    tools="tools:latest",
    vision="vision:latest",
    audio="audio:latest",
    unthinking="chat:latest",
    toolless="chat:latest",
)
NAMES = frozenset(MODELS.names().values())
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
EFFORTS = ("", "none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max")
ARGUMENTS = '{"city":"Paris"}'
PROMPT_TOKENS = 7


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Reply:
    model: str
    words: list[str]
    thoughts: str = ""
    calls: tuple[str, ...] = ()
    """Names of functions. Their arguments are ARGUMENTS."""
    reason: str = "stop"

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def tokens(self) -> int:
        return max(1, len(self.words) + bool(self.thoughts))


def reply(
    body: Mapping[str, Any], limit: int | None, *, stop: Any = None, schema: bool = False, think: bool = False
) -> Reply:
    """Call the first tool if the question is about Paris and has no result yet."""
    model = known(body)
    thoughts = "Let me see. " if think and base(model) == "think" else ""
    tools = function_names(body.get("tools") or ())
    asked = json.dumps(body)
    if tools and base(model) == "tools" and "Paris" in asked and "11 degrees" not in asked:
        return Reply(model, [], thoughts, tuple(tools[:1]))
    if schema:
        return Reply(model, ['{"ok"', ": true}"], thoughts)
    words = [f"{word} " for word in WORDS]
    for each in [stop] if isinstance(stop, str) else stop or ():
        text = "".join(words)
        words = [f"{word} " for word in text.partition(each)[0].split()]
    cut = limit is not None and limit < len(words)
    return Reply(model, words[:limit] if cut else words, thoughts, reason="length" if cut else "stop")


def function_names(tools: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for tool in tools:
        if tool.get("type") == "namespace":
            found += function_names(tool["tools"], f"{tool['name']}.")
        elif not str(tool.get("type")).startswith("web_search"):
            found.append(prefix + (tool.get("function") or tool)["name"])
    return found


def base(model: str) -> str:
    """Without host, namespace and tag."""
    return model.lower().rpartition("/")[2].partition(":")[0]


def known(body: Mapping[str, Any], missing: Refused | None = None) -> str:
    """The requested name. Raises Refused, `missing` if there is none."""
    model = body.get("model") or ""
    if not model:
        raise missing or Refused(400, "model is required")
    if "@" in model:
        raise Refused(400, "invalid model name")
    if model.endswith(":local:cloud"):
        raise Refused(400, f'use either :local or :cloud, not both: "{model}"')
    if f"{base(model)}:latest" not in NAMES:
        raise Refused(404, f"model '{model}' not found")
    return str(model)


def chatting(body: Mapping[str, Any], kind: str = "chat") -> None:
    if base(known(body)) == "embed":
        raise Refused(400, f'"{body["model"]}" does not support {kind}')


def thinks(effort: Any) -> bool:
    if (effort or "") not in EFFORTS:
        raise Refused(400, f"invalid reasoning value: {effort!r}")
    return effort != "none"


def typed(body: Mapping[str, Any], **kinds: type | tuple[type, ...]) -> None:
    for key, kind in kinds.items():
        value = body.get(key)
        if value is not None and not isinstance(value, kind):
            raise Refused(400, f"json: cannot unmarshal {key}")


def picture(url: str) -> None:
    if url.startswith("http"):
        raise Refused(400, "image URLs are not currently supported, please use base64 encoded data instead")
    from_base64(url.partition(",")[2])


def from_base64(data: str) -> None:
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        raise Refused(400, "invalid image input") from None
