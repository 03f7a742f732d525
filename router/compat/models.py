"""Choice of the models to check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Names by purpose; None if the server has no such model."""

    chat: str | None = None
    embed: str | None = None
    thinking: str | None = None
    tools: str | None = None
    vision: str | None = None
    audio: str | None = None
    unthinking: str | None = None
    """Chats, cannot think."""
    toolless: str | None = None
    """Chats, cannot call tools."""

    def names(self) -> dict[str, str]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {use: name for use, name in found.items() if name is not None}


@dataclass(frozen=True, slots=True)
class OfferedModel:
    name: str
    size: int
    capabilities: frozenset[str]
    """Empty if /api/tags lacks them."""


def parse_tags(tags: Any) -> list[OfferedModel]:
    """Smallest first. Malformed entries are skipped."""
    models = tags.get("models") if isinstance(tags, Mapping) else None
    found = [
        _parse_entry(item) for item in models or () if isinstance(item, Mapping) and isinstance(item.get("name"), str)
    ]
    return sorted(found, key=lambda model: (model.size, model.name))


def _parse_entry(item: Mapping[str, Any]) -> OfferedModel:
    size = item.get("size")
    return OfferedModel(item["name"], size if isinstance(size, int) else 0, capabilities(item))


def capabilities(answer: Any) -> frozenset[str]:
    """Read from an entry of /api/tags or a body of /api/show."""
    found = answer.get("capabilities") if isinstance(answer, Mapping) else None
    return frozenset(each for each in found if isinstance(each, str)) if isinstance(found, list) else frozenset()


def choose(models: Iterable[OfferedModel], requested: ModelChoice) -> ModelChoice:
    """Choose the requested model for each purpose, else the smallest that is capable.

    Plain chats prefer a model that cannot think, because it answers in fewer tokens. A model without capabilities is
    assumed to chat.
    """
    models = [model for model in models if not _remote(model.name)]
    chats = [model for model in models if "completion" in model.capabilities or not model.capabilities]

    def first(among: list[OfferedModel], can: Callable[[OfferedModel], bool]) -> str | None:
        return next((model.name for model in among if can(model)), None)

    unthinking = first(chats, lambda model: "thinking" not in model.capabilities)
    return ModelChoice(
        chat=requested.chat or unthinking or first(chats, lambda _: True),
        embed=requested.embed or first(models, lambda model: "embedding" in model.capabilities),
        thinking=requested.thinking or first(chats, lambda model: "thinking" in model.capabilities),
        tools=requested.tools or first(chats, lambda model: "tools" in model.capabilities),
        vision=requested.vision or first(chats, lambda model: "vision" in model.capabilities),
        audio=requested.audio or first(models, lambda model: "audio" in model.capabilities),
        unthinking=requested.unthinking or unthinking,
        toolless=requested.toolless or first(chats, lambda model: "tools" not in model.capabilities),
    )


def _remote(name: str) -> bool:
    """True if ollama.com runs it (R038)."""
    return name.endswith((":cloud", "-cloud"))
