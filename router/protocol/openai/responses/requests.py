"""Requests to /v1/responses.

`ResponsesRequest` is the list of fields that are forwarded. Fields of `requests.ServerOnly` and `STATEFUL` are refused,
and all others are dropped.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.openai import requests
from vllama_pool.router.protocol.openai.responses.items import Item
from vllama_pool.router.protocol.openai.responses.tools import Tool, ToolChoice, object_or_absent
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.request_body import BodyDecoder, missing_field, not_for_clients

SEND_ALL = "the pool keeps no state between requests; send the whole conversation in 'input'"
STATEFUL: Final = {
    "previous_response_id": SEND_ALL,
    "conversation": SEND_ALL,
    "background": "the pool keeps no state between requests; wait for the answer, or stream it",
    "store": "the pool keeps no state between requests; leave it out, or set it to false",
    "prompt": "the pool keeps no prompt templates; send 'instructions' and 'input'",
}
"""Fields that need a server with a memory, with advice."""
INCLUDES: Final = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "message.output_text.logprobs",
        "reasoning.encrypted_content",
    }
)
"""Values of `include` that vLLM accepts. Others concern tools that no worker has, and are dropped."""

_SUMMARIES = ("auto", "concise", "detailed")
_TIERS = ("auto", "default", "flex", "scale", "priority")
_FORMATS = ("text", "json_object", "json_schema")
_VERBOSITIES = ("low", "medium", "high")
_TRUNCATIONS = ("auto", "disabled")


class ReasoningOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    effort: str | None = None
    summary: str | None = None


class TextFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesRequest(api.VllmSampling, omit_defaults=True, kw_only=True):
    model: str = ""
    streamed: bool | None = msgspec.field(default=None, name="stream")
    input: str | list[Item] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    include_reasoning: bool | None = None
    text: TextOptions | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    logit_bias: dict[str, float] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: msgspec.Raw = msgspec.Raw()
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None


class _Refused(msgspec.Struct, frozen=True):
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    store: Any = None
    prompt: Any = None
    previous_input_messages: Any = None


_decode = BodyDecoder(ResponsesRequest).decode
_decode_refused = BodyDecoder(_Refused).decode


def decode(body: bytes) -> ResponsesRequest:
    """Raises BadRequest."""
    request = _decode(body)
    requests.require_model(request.model)
    requests.refuse_server_fields(body)
    _refuse_state(_decode_refused(body))
    if request.input is None:
        raise missing_field("input")
    if not request.input:
        raise BadRequest("'input' is empty; send a text or items", param="input")
    _check_limits(request)
    _check_text(request.text)
    requests.check_template_kwargs(request.chat_template_kwargs)
    request.reasoning = _reasoning(request.reasoning)
    request.include = [each for each in request.include or () if each in INCLUDES] or None
    if request.service_tier not in _TIERS:
        request.service_tier = None
    return request


def _refuse_state(found: _Refused) -> None:
    for name, advice in STATEFUL.items():
        if getattr(found, name) not in (None, False):
            raise BadRequest(f"'{name}' is not supported: {advice}", param=name, code="unsupported_parameter")
    if found.previous_input_messages is not None:
        raise not_for_clients("previous_input_messages", "send them in 'input'")


def _check_limits(request: ResponsesRequest) -> None:
    for name, value, minimum in (
        ("max_output_tokens", request.max_output_tokens, 1),
        ("max_tool_calls", request.max_tool_calls, 1),
        ("top_logprobs", request.top_logprobs, 0),
    ):
        if value is not None and value < minimum:
            raise requests.below_minimum(name, value, minimum)
    one_of(request.truncation, _TRUNCATIONS, "truncation")


def _check_text(text: TextOptions | None) -> None:
    if text is None:
        return
    one_of(text.verbosity, _VERBOSITIES, "text.verbosity")
    if text.format is not None:
        one_of(text.format.type, _FORMATS, "text.format.type")
        if text.format.type == "json_schema":
            for name in ("name", "schema"):
                if not getattr(text.format, name):
                    raise missing_field(f"text.format.{name}")
            if not object_or_absent(text.format.schema, "text.format.schema"):
                raise missing_field("text.format.schema")


def _reasoning(options: ReasoningOptions | None) -> ReasoningOptions | None:
    """Check, and leave out a summary of "none"."""
    if options is None:
        return None
    effort = one_of(options.effort, requests.EFFORTS, "reasoning.effort")
    summary = one_of(options.summary, (*_SUMMARIES, "none"), "reasoning.summary")
    return ReasoningOptions("max" if effort == "ultra" else effort, None if summary == "none" else summary)


def one_of(value: str | None, values: Collection[str], param: str) -> str | None:
    """Return the value. Raises BadRequest."""
    if value is not None and value not in values:
        supported = ", ".join(f"'{each}'" for each in values)
        raise BadRequest(f"Invalid value: '{value}'. Supported values are: {supported}.", param=param)
    return value
