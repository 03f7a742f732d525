"""Decides whether another worker may continue an answer by its token ids. Pure functions.

The second worker sees the answer so far as a part of the prompt. That is sound if nothing in the sampling looks at the
answer as a whole, and if the text of the ids is the text of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from vllama_pool.router.protocol.vllm import api
from vllama_pool.workers.registry.record import ModelInfo

MEDIA = frozenset(("vision", "audio"))
"""Capabilities of models whose prompts may hold more than tokens."""


class Restrictions(msgspec.Struct, frozen=True, gc=False):
    """Fields of OpenAI's requests that rule out a continuation, at the values that do not."""

    n: int | None = None
    logprobs: Any = None
    top_logprobs: Any = None
    prompt_logprobs: Any = None
    echo: Any = None
    suffix: Any = None
    tools: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    repetition_detection: Any = None
    use_beam_search: Any = None
    bad_words: Any = None
    thinking_token_budget: Any = None
    include_reasoning: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    spaces_between_special_tokens: Any = None
    stream_options: api.VllmStreamOptions | None = None


_USUAL = (Restrictions(), Restrictions(stream_options=api.INCLUDE_USAGE))
_decode = msgspec.json.Decoder(Restrictions).decode


def sampling_refusal(upstream: api.VllmSampling, info: ModelInfo) -> str:
    """Return the option that rules out a continuation; "" if none does.

    Penalties and a seed's random numbers depend on how many tokens were generated before.
    """
    if upstream.presence_penalty or upstream.frequency_penalty:
        return "penalty"
    repetition = upstream.repetition_penalty
    if (info.defaults.get("repeat_penalty", 1.0) if repetition is None else repetition) != 1.0:
        return "penalty"
    if upstream.seed is not None and upstream.temperature != 0:
        return "seed"
    return ""


def is_usual(upstream: api.VllmSampling) -> bool:
    """Return True for an OpenAI request with none of these fields, for which `field_refusal` is spared."""
    values, usual = _restrictions(type(upstream))
    options = getattr(upstream, "stream_options", None)
    return values(upstream) == usual and (options is None or not options.continuous_usage_stats)


@lru_cache(8)
def _restrictions(kind: type[api.VllmSampling]) -> tuple[Callable[[Any], Any], Any]:
    """Return what reads a request's restrictions, and the values that it reads if they are absent."""
    names = [name for name in Restrictions.__struct_fields__ if name != "stream_options"]
    values = attrgetter(*(name for name in names if name in kind.__struct_fields__))
    return values, values(kind())


def field_refusal(fields: bytes) -> str:
    """Return the field of an OpenAI request, encoded without null fields, that rules out a continuation; else ""."""
    found = _decode(fields)
    if found in _USUAL:
        return ""
    for name in Restrictions.__struct_fields__:
        value = getattr(found, name)
        if name == "n" and value == 1:
            continue
        if name == "stream_options" and (value is None or not value.continuous_usage_stats):
            continue
        if value is not None and value is not False:
            return name
    return ""


@dataclass(frozen=True, slots=True)
class Interruption:
    """The state of an answer whose worker was lost."""

    finished: bool = False
    """Its finish was seen."""
    resumed: int = 0
    """Continuations so far."""
    complete_log: bool = True
    """All ids are known."""
    reasoning_open: bool = False
    """The model was still thinking."""
    replicas: int = 0
    """Other workers with the same digest and served name."""


def interruption_refusal(state: Interruption) -> str:
    """Return why an eligible request's answer is not continued; "" if it is."""
    if state.finished:
        return "finished"
    if state.resumed:
        return "resumed before"
    if not state.complete_log:
        return "unknown tokens"
    if state.reasoning_open:
        return "open reasoning"
    return "" if state.replicas else "no replica"


def may_hold_media(capabilities: Collection[str]) -> bool:
    return not MEDIA.isdisjoint(capabilities)
