"""A model's defaults and limits for requests, from the routing file (all but `messages`) or a virtual model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Defaults:
    options: Mapping[str, Any] = field(default_factory=_nothing)
    """Validated sampling options under Ollama's names."""
    system: str = ""
    """Used if the request has no system text (R052, R085)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Messages of /api/chat, put before the request's (R085)."""
    stream_interval: int = 1
    """Tokens per event of a streamed answer."""
    stall: float | None = None
    """Seconds of silence within an answer that count as a stall; None for the setting."""
    templates_completions: bool = False
    """/v1/completions puts prompts into the chat template."""
    output: int | None = None
    """Longest answer in tokens. Requests for more, or without a limit, get this one."""
    context: int | None = None
    """Longest prompt and answer in tokens. A model with a longer context is used as if it had this one."""
    resumes: bool = True
    """If the worker is lost in the middle of a streamed text, another one continues it."""
    ignores_tools: bool = False
    """Tools are dropped if the model cannot call them. Otherwise the request is refused."""

    _alone: Defaults | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def without_resume(self) -> Defaults:
        """For a model whose answers no other worker can continue. Always the same object: plans are kept by it."""
        if not self.resumes:
            return self
        if self._alone is None:
            object.__setattr__(self, "_alone", replace(self, resumes=False))
        return self._alone or self

    @classmethod
    def of(cls, entry: ModelEntry) -> Defaults:
        limits = entry.limits
        return cls(
            entry.option_values(),
            entry.system or "",
            stream_interval=entry.stream_interval,
            stall=entry.timeouts.stall if entry.timeouts else None,
            templates_completions=entry.completions == "templated",
            output=limits.output if limits else None,
            context=limits.context if limits else None,
            resumes=entry.resume,
            ignores_tools=entry.tools == "ignore",
        )


NO_DEFAULTS = Defaults()
