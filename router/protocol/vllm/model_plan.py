"""The part of forwarded requests that depends on the model only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.capabilities import drops_tools
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.strict_templates import SYSTEM_ROLES
from vllama_pool.router.protocol.vllm.window import lower, narrowed, window_of
from vllama_pool.workers.registry.record import ModelInfo

SamplingOf = Callable[[Mapping[str, Any], ModelInfo], Mapping[str, Any]]
"""Translates options under Ollama's names into vLLM's fields."""
MessagesOf = Callable[[Defaults, ModelInfo], list[api.VllmMessage]]
"""Translates a virtual model's messages."""


class ModelPlan:
    """A model's defaults in vLLM's terms. The worker has its own, which follow OpenAI's."""

    __slots__ = ("_described", "defaults", "info", "messages", "output", "resumes", "sampling", "window")

    def __init__(self, info: ModelInfo, defaults: Defaults, sampling: SamplingOf, messages: MessagesOf) -> None:
        self._described = info  # `PlanCache` knows the plan by this object
        self.info = narrowed(info, defaults)
        self.window = window_of(info, defaults)
        """A context smaller than the worker's, in tokens. None if vLLM's own is the limit."""
        self.output = lower(defaults.output, self.window)
        """Longest answer in tokens; None for any."""
        self.defaults = defaults
        self.resumes = defaults.resumes
        """Another worker may continue an answer."""
        self.messages = messages(defaults, info) if defaults.messages else []
        self.sampling = tuple(sampling(defaults.options, info).items()) if defaults.options else ()
        """Fields of `VllmSampling`."""

    def complete(self, upstream: api.VllmSampling, *, streams_text: bool) -> None:
        """Apply the defaults that the request leaves open. `streams_text`: a streamed answer without tool calls."""
        for name, value in self.sampling:
            if getattr(upstream, name) is None:
                setattr(upstream, name, value)
        interval = self.defaults.stream_interval
        if streams_text and interval > 1 and upstream.stream_interval is None:
            upstream.stream_interval = interval

    def with_messages(self, messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
        """Put the model's system text and messages first. A leading system message replaces the model's (R085)."""
        system = self.defaults.system
        if not (system or self.messages):
            return messages
        if messages[0].role in SYSTEM_ROLES:
            return [messages[0], *self.messages, *messages[1:]]
        return [*([api.VllmMessage("system", system)] if system else []), *self.messages, *messages]

    def limit_output(self, tokens: int | None) -> int | None:
        """Lower a client's limit to the model's, and to the context, as agents send fixed ones. vLLM subtracts the
        prompt."""
        context = self.info.context_length
        tokens = context if tokens is not None and 0 < context < tokens else tokens
        return tokens if self.output is None else lower(tokens, self.output)

    def drops_tools(self, refusals: Sequence[AttemptFailed] = ()) -> bool:
        """True if the model cannot call tools and its requests get an answer all the same.

        `refusals`: those of a worker whose abilities are not known.
        """
        return self.defaults.ignores_tools and drops_tools(self.info, self.defaults, refusals)
