"""Which of a server's models to ask: small ones, of each kind that the checks need. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Names by what they are needed for; None where the server has no such model."""

    chat: str | None = None
    embed: str | None = None
    thinking: str | None = None
    tools: str | None = None
    vision: str | None = None
    unthinking: str | None = None
    """Chats, and cannot think."""
    toolless: str | None = None
    """Chats, and cannot call tools."""

    def known(self) -> dict[str, str]:
        """Those that there are, by their use."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {use: name for use, name in found.items() if name is not None}


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of /api/tags."""

    name: str
    size: int
    capabilities: frozenset[str]
    """Empty where it does not say."""


def listed(tags: Any) -> list[Listed]:
    """What /api/tags lists, the smallest first; whatever is no model is passed over."""
    models = tags.get("models") if isinstance(tags, Mapping) else None
    found = [_listed(item) for item in models or () if isinstance(item, Mapping) and isinstance(item.get("name"), str)]
    return sorted(found, key=lambda model: (model.size, model.name))


def _listed(item: Mapping[str, Any]) -> Listed:
    size = item.get("size")
    return Listed(item["name"], size if isinstance(size, int) else 0, capabilities(item))


def capabilities(answer: Any) -> frozenset[str]:
    """What an entry of /api/tags, or an answer of /api/show, says that a model can."""
    found = answer.get("capabilities") if isinstance(answer, Mapping) else None
    return frozenset(each for each in found if isinstance(each, str)) if isinstance(found, list) else frozenset()


def choose(models: Iterable[Listed], wanted: Models) -> Models:
    """The model for each use: the wanted one, else the smallest that can.

    Plain questions go to a model that does not think where there is one: it answers in fewer tokens. A model of which
    nothing is known is taken for one that chats.
    """
    models = [model for model in models if not _remote(model.name)]
    chats = [model for model in models if "completion" in model.capabilities or not model.capabilities]

    def first(among: list[Listed], can: Callable[[Listed], bool]) -> str | None:
        return next((model.name for model in among if can(model)), None)

    unthinking = first(chats, lambda model: "thinking" not in model.capabilities)
    return Models(
        chat=wanted.chat or unthinking or first(chats, lambda _: True),
        embed=wanted.embed or first(models, lambda model: "embedding" in model.capabilities),
        thinking=wanted.thinking or first(chats, lambda model: "thinking" in model.capabilities),
        tools=wanted.tools or first(chats, lambda model: "tools" in model.capabilities),
        vision=wanted.vision or first(chats, lambda model: "vision" in model.capabilities),
        unthinking=wanted.unthinking or unthinking,
        toolless=wanted.toolless or first(chats, lambda model: "tools" not in model.capabilities),
    )


def _remote(name: str) -> bool:
    """Whether ollama.com would answer for it (R038)."""
    return name.endswith((":cloud", "-cloud"))
