"""POST /api/chat: checks, and the request to vLLM (R071-R086)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.clock import TimestampFormatter, rfc3339
from vllama_pool.router.protocol.ollama import (
    capabilities,
    continuation,
    formats,
    images,
    messages,
    options,
    render,
    stream_interval,
    think_option,
    tools,
)
from vllama_pool.router.protocol.ollama.answer_builder import AnswerBuilder
from vllama_pool.router.protocol.ollama.chat_response import ChatResponse, ChatWriter, ResponseMessage
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.ollama.requests import ChatRequest, InferenceRequest
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.ollama.structured_answer import StructuredAnswer
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, shorten, strict_templates
from vllama_pool.workers.registry.record import ModelInfo

NO_TEMPLATE = 'chat needs a chat template and "{model}" has none: use /api/generate, or start vLLM with --chat-template'


def check(request: ChatRequest, info: ModelInfo, clock: Clock) -> DirectResponse | None:
    if not request.messages and request.keep_alive == 0:
        return _empty_response(request, clock, "unload")
    capabilities.refuse_image_generation(info)
    think_option.check_capability(request.think, request.model, info)
    capabilities.require_completion("chat", request.model, info)
    capabilities.require(["tools"] if request.tools else [], request.model, info)
    if request.options:
        options.check(request.options)
    if not request.messages:
        return _empty_response(request, clock, "load")
    formats.require_valid(request.response_format)
    capabilities.require(images.required_capabilities(_images(request)), request.model, info)
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=request.model))
    return None


def _images(request: ChatRequest) -> list[str]:
    return [image for message in request.messages or () for image in message.images or ()]


def _empty_response(request: ChatRequest, clock: Clock, reason: str) -> DirectResponse:
    """One object, also if a stream was requested (R088)."""
    message = ResponseMessage("assistant", "")
    response = ChatResponse(request.model, rfc3339(clock.time_ns()), message, True, reason)
    return DirectResponse(json_lines.encode(response))


def prepare(
    request: ChatRequest, info: ModelInfo, defaults: Defaults, clock: Clock, *, whole_interval: int = 1
) -> NextStep:
    """`whole_interval`: tokens per event of an answer that is not streamed."""
    return _send(_upstream_request(request, info, defaults, whole_interval), request, info, clock)


def adapt(
    request: ChatRequest,
    info: ModelInfo,
    defaults: Defaults,
    clock: Clock,
    *refusals: AttemptFailed,
    whole_interval: int = 1,
) -> NextStep | None:
    """Apply the limits that the refusals name, and change what the template refuses. Drops the oldest turns (R145)."""
    capabilities.explain_refusal(refusals[-1], request.model, _images(request))
    think_option.explain_refusal(refusals[-1], request.think, request.model)
    upstream = _upstream_request(request, info, defaults, whole_interval, refusals)
    others = [each for each in refusals if not (continuation.is_refusal(each) or think_option.is_refusal(each))]
    has_less = len(others) < len(refusals)
    form = strict_templates.form_after(others, upstream.messages, info)
    if form is None:
        if has_less:
            raise refusals[-1]
        return None
    within = limits.within_limits(upstream, refusals)
    send = partial(_send, request=request, info=info, clock=clock)
    if any(map(limits.is_too_long, refusals)):
        changed = within or upstream
        if changed.max_tokens is None and not request.may_shorten:
            return None

        def without_old_turns() -> NextStep:
            if not request.may_shorten:
                raise refusals[-1]
            return shorten.shortened(changed, info.context_length, form=form, send=send)

        return shorten.fitted(strict_templates.apply(form, changed), send, without_old_turns)
    if within is None and form is strict_templates.unchanged and not has_less:
        return None
    return send(strict_templates.apply(form, within or upstream))


def _send(upstream: api.VllmChatRequest, request: ChatRequest, info: ModelInfo, clock: Clock) -> NextStep:
    if request.debug_render_only:
        return render.render_chat(upstream, lambda text: _rendered(request, clock, text))
    continued = upstream.continue_final_message and continuation.continues_text(request, info)
    return UpstreamRequest(
        api.CHAT_PATH, api.encode(upstream), partial(translator, all_content=True) if continued else None
    )


def _upstream_request(
    request: ChatRequest,
    info: ModelInfo,
    defaults: Defaults,
    whole_interval: int,
    refusals: Sequence[AttemptFailed] = (),
) -> api.VllmChatRequest:
    """Leave out the continuation and the switch of thinking if they were refused."""
    chat = messages.with_defaults(request.messages or (), defaults)
    upstream = api.VllmChatRequest(
        model=info.name,
        messages=messages.for_template(messages.translate(chat), info.template),
        stream=True,
        stream_options=api.INCLUDE_USAGE,
        tools=tools.translate(request.tools),
        response_format=formats.require_valid(request.response_format),
        **options.sampling(options.merge(request.options, defaults.options, info), info),
    )
    if not upstream.tools:
        upstream.stream_interval = stream_interval.choose(request, defaults, whole_interval)
    upstream.return_token_ids = stream_interval.needs_ids(request, upstream.stream_interval)
    set_thinking_and_logprobs(upstream, request, info, refusals)
    continuation.leave_open(upstream, request, info, refusals)
    return upstream


def set_thinking_and_logprobs(
    upstream: api.VllmChatRequest, request: InferenceRequest, info: ModelInfo, refusals: Sequence[AttemptFailed]
) -> None:
    think_option.apply(upstream, request.think, info, refusals)
    if request.logprob_alternatives is not None:
        upstream.logprobs = True
        upstream.top_logprobs = request.logprob_alternatives


def _rendered(request: ChatRequest, clock: Clock, text: str) -> DirectResponse:
    debug_info = DebugInfo(text, len(_images(request)))
    message = ResponseMessage("", "")
    response = ChatResponse(request.model, rfc3339(clock.time_ns()), message, False, debug_info=debug_info)
    return DirectResponse(json_lines.encode(response))


def translator(
    request: ChatRequest,
    timing: Timing,
    clock: Clock,
    *,
    timestamps: TimestampFormatter | None = None,
    all_content: bool = False,
) -> TextTranslator:
    kind = AnswerBuilder if request.response_format is None else StructuredAnswer
    logprobs = request.logprob_alternatives
    answer = kind(ChatWriter(request.model), clock, request.stream, logprobs, False, None, all_content)
    return TextTranslator(answer, timing, clock, request.stream, timestamps or TimestampFormatter())
