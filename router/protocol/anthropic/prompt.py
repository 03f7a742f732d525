"""POST /v1/messages and /v1/messages/count_tokens: checks, and the requests to vLLM (R034, R120)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.router.protocol import capabilities
from vllama_pool.router.protocol.anthropic import conversation, messages, thinking, tools
from vllama_pool.router.protocol.anthropic.blocks import Block, Text
from vllama_pool.router.protocol.anthropic.events import FAILED, MessageStream, with_message_id
from vllama_pool.router.protocol.anthropic.requests import (
    COUNT_TOKENS,
    MESSAGES,
    NO_METADATA,
    OUTPUT_FORMAT,
    CountTokensRequest,
    MessagesRequest,
    Prompt,
    refuse_server_fields,
)
from vllama_pool.router.protocol.operation import (
    Clock,
    NextStep,
    PreflightRequest,
    StreamTranslator,
    Timing,
    UpstreamRequest,
)
from vllama_pool.router.protocol.vllm import api, limits, strict_templates
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_count, read_message
from vllama_pool.router.protocol.vllm.window import lower, room_after, surely_fits
from vllama_pool.workers.registry.record import ModelInfo

NO_TEMPLATE = 'messages need a chat template and "{model}" has none: start vLLM with --chat-template'
TOO_LONG = "prompt is too long: {tokens} tokens > {context} maximum"
"""Anthropic's text, which clients search for before they shorten a conversation."""
BROKEN_CALL = (
    "the model's tool call is not valid JSON, or was cut off by max_tokens; raise max_tokens, or stream the answer"
)
_BROKEN_CALL = re.compile(r": line \d+ column \d+ \(char \d+\)|for AnthropicContentBlock")
"""vLLM answers 400 where it cannot read a call's arguments."""


class _Count(msgspec.Struct, frozen=True):
    input_tokens: int


_decode_count = msgspec.json.Decoder(_Count).decode
_PROMPT = re.compile(r"(\d+) input tokens|Input length \((\d+)\)")
_CONTEXT = re.compile(r"context length (?:is (?:only )?|\()(\d+)")


def decode_message(body: bytes) -> MessagesRequest:
    """Raises BadRequest."""
    request = MESSAGES.decode(body)
    _require_model(request)
    if request.max_tokens is None or request.max_tokens <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    _read(request, body)
    return request


def decode_count(body: bytes) -> CountTokensRequest:
    """Raises BadRequest."""
    request = COUNT_TOKENS.decode(body)
    _require_model(request)
    _read(request, body)
    return request


def _require_model(request: Prompt) -> None:
    if not request.model.strip():
        raise BadRequest("model is required")


def _read(request: Prompt, body: bytes) -> None:
    refuse_server_fields(body)
    request.messages = messages.read(request.messages)
    request.system = messages.read_system(request.system)
    request.tools, request.tool_choice = tools.read(request.tools, request.tool_choice)
    request.thinking = thinking.read_thinking(request.thinking)
    request.output_config = thinking.read_output(request.output_config, OUTPUT_FORMAT.decode(body).output_format)


def check(request: Prompt, info: ModelInfo, defaults: Defaults = NO_DEFAULTS) -> None:
    """Raises BadRequest if the model lacks what the request needs."""
    capabilities.refuse_image_generation(info)
    capabilities.require_completion("chat", request.model, info)
    if request.tools and not (request.tool_choice and request.tool_choice.type == "none"):
        capabilities.require_tools(request.model, info, defaults)
    capabilities.require(messages.required_capabilities(request.messages or ()), request.model, info)
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=request.model))


def prepare(request: Prompt, plan: ModelPlan) -> NextStep:
    return _within_window(_send(request, plan), request, plan)


def adapt(request: Prompt, plan: ModelPlan, *refusals: AttemptFailed) -> NextStep | None:
    """Change what the template refuses, leave out what the worker refuses of thinking, and apply limits.

    vLLM hides the text of a refusal within a stream, so the worker is asked for it. Raises Refused.
    """
    last = refusals[-1]
    if last.text == FAILED:
        return _question(request, plan, refusals) if last.status < 500 else None
    media = messages.required_capabilities(request.messages or ())
    capabilities.explain_refusal(last, request.model, media, plan.defaults)
    _explain_context(last)
    if _BROKEN_CALL.search(last.text):
        raise Refused(BROKEN_CALL, status=400)
    hidden = any(refusal.text == FAILED for refusal in refusals)
    form = strict_templates.unchanged if hidden else _form_after(request, plan, refusals)
    if form is None:
        return None
    adapted = _send(request, plan, refusals, form)
    if form is strict_templates.unchanged and adapted == _send(request, plan, refusals[:-1]):
        if hidden:
            raise last
        return None
    return _within_window(adapted, request, plan, refusals, form)


def _within_window(
    step: UpstreamRequest,
    request: Prompt,
    plan: ModelPlan,
    refusals: Sequence[AttemptFailed] = (),
    form: strict_templates.Form = strict_templates.unchanged,
) -> NextStep:
    """Count the prompt first if it may exceed a context smaller than the worker's."""
    window = plan.window
    if window is None or not isinstance(request, MessagesRequest):
        return step
    if surely_fits(step.body, plan.limit_output(request.max_tokens), window):
        return step
    counted = CountTokensRequest(**{name: getattr(request, name) for name in CountTokensRequest.__struct_fields__})

    def on_count(answer: bytes) -> NextStep:
        limited = request.copy()
        limited.max_tokens = lower(request.max_tokens, room_after(_decode_count(answer).input_tokens, window))
        return _send(limited, plan, refusals, form)

    question = _send(counted, plan, refusals, form)
    return PreflightRequest(question.path, question.body, on_count)


def _question(request: Prompt, plan: ModelPlan, refusals: Sequence[AttemptFailed]) -> PreflightRequest:
    """Ask for the same answer, but for one token and not streamed."""
    asked = request.copy()
    if isinstance(asked, MessagesRequest):
        asked.streamed, asked.max_tokens = None, 1
    step = _send(asked, plan, refusals)

    def unexplained(_: bytes) -> NextStep:
        raise refusals[-1]

    return PreflightRequest(step.path, step.body, unexplained)


def _form_after(request: Prompt, plan: ModelPlan, refusals: Sequence[AttemptFailed]) -> strict_templates.Form | None:
    upstream = request.copy()
    _put_first(upstream, plan)
    chat = conversation.as_chat(upstream.system, upstream.messages or ())
    unexplained = [
        refusal for refusal in refusals if not (thinking.is_refusal(refusal) or capabilities.refuses_tools(refusal))
    ]
    if plan.drops_tools(refusals):
        chat = strict_templates.without_tools(chat)
    return strict_templates.form_after(unexplained, chat, plan.info)


def _explain_context(failure: AttemptFailed) -> None:
    """Raises Refused with Anthropic's text if the prompt is too long."""
    if failure.text != CONTEXT_EXCEEDED:
        return
    prompt, context = _PROMPT.search(failure.original), _CONTEXT.search(failure.original)
    if prompt is None or context is None:
        raise Refused(f"prompt is too long: {failure.original or failure.text}", status=400)
    raise Refused(TOO_LONG.format(tokens=prompt[1] or prompt[2], context=context[1]), status=400)


def _send(
    request: Prompt,
    plan: ModelPlan,
    refusals: Sequence[AttemptFailed] = (),
    form: strict_templates.Form = strict_templates.unchanged,
) -> UpstreamRequest:
    upstream = request.copy()
    upstream.model, upstream.metadata = plan.info.name, NO_METADATA
    path, max_tokens = api.COUNT_TOKENS_PATH, None
    if isinstance(upstream, MessagesRequest):
        path = api.MESSAGES_PATH
        _complete(upstream, plan)
        max_tokens = upstream.max_tokens = _within(plan.limit_output(upstream.max_tokens), refusals)
    _put_first(upstream, plan)
    if plan.drops_tools(refusals):
        upstream.tools = upstream.tool_choice = None
        if messages.uses_tools(upstream.messages or ()):
            form = strict_templates.composed(strict_templates.without_tools, form)
    if form is not strict_templates.unchanged:
        chat = form(conversation.as_chat(upstream.system, upstream.messages or ()))
        upstream.system, upstream.messages = None, conversation.from_chat(chat)
    switches = thinking.apply(upstream, max_tokens, plan.info, refusals)
    body = api.encode(upstream)
    if switches:
        body = b'%b,"chat_template_kwargs":%b}' % (body[:-1], api.encode(switches))
    return UpstreamRequest(path, body, whole=not request.stream)


def _complete(upstream: MessagesRequest, plan: ModelPlan) -> None:
    """Apply the model's defaults that the request leaves open. vLLM takes no others on this route."""
    defaults: dict[str, Any] = dict(plan.sampling)
    for name in ("temperature", "top_k", "top_p"):
        if getattr(upstream, name) is None:
            setattr(upstream, name, defaults.get(name))
    stop = defaults.get("stop")
    if upstream.stop_sequences is None and stop:
        upstream.stop_sequences = [stop] if isinstance(stop, str) else list(stop)


def _within(max_tokens: int | None, refusals: Sequence[AttemptFailed]) -> int | None:
    for refusal in refusals:
        if max_tokens is not None and (found := limits.MAX_TOKENS.search(refusal.text)):
            max_tokens = min(max_tokens, int(found[1]))
    return max_tokens


def _put_first(upstream: Prompt, plan: ModelPlan) -> None:
    """Put the model's system text and messages first. The request's system text replaces the model's (R085)."""
    sent = upstream.messages or []
    own_system = 1 if sent and sent[0].role == "system" else 0
    if plan.messages:
        upstream.messages = [*sent[:own_system], *conversation.from_chat(plan.messages), *sent[own_system:]]
    if plan.defaults.system and not upstream.system and not own_system:
        system: list[Block] = [Text(plan.defaults.system)]
        upstream.system = system


def translator(request: Prompt, timing: Timing, clock: Clock) -> StreamTranslator:
    if isinstance(request, CountTokensRequest):
        return WholeAnswer(request.model, read_count)
    return MessageStream(request.model) if request.stream else WholeAnswer(request.model, read_message, with_message_id)
