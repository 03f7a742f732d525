"""POST /api/chat: checks, and the request to vLLM (R071-R086)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import capabilities, json_lines, media
from vllama_pool.router.protocol.clock import TimestampFormatter, rfc3339
from vllama_pool.router.protocol.ollama import (
    continuation,
    formats,
    messages,
    options,
    render,
    think_option,
    tools,
)
from vllama_pool.router.protocol.ollama.answer_builder import AnswerBuilder
from vllama_pool.router.protocol.ollama.blank_limit import BlankLimit
from vllama_pool.router.protocol.ollama.chat_response import ChatResponse, ChatWriter, ResponseMessage
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.ollama.requests import ChatRequest
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, shorten, strict_templates
from vllama_pool.router.protocol.vllm.resumable import chat_without_prompt, is_resumable
from vllama_pool.router.protocol.vllm.window import surely_fits
from vllama_pool.workers.registry.record import ModelInfo

NO_TEMPLATE = 'chat needs a chat template and "{model}" has none: use /api/generate, or start vLLM with --chat-template'


def check(
    request: ChatRequest, info: ModelInfo, clock: Clock, defaults: Defaults = NO_DEFAULTS
) -> DirectResponse | None:
    if not request.messages and request.keep_alive == 0:
        return _empty_response(request, clock, "unload")
    capabilities.refuse_image_generation(info)
    if request.think:
        think_option.check_capability(request.think, request.model, info)
    capabilities.require_completion("chat", request.model, info)
    if request.tools:
        capabilities.require_tools(request.model, info, defaults)
    if request.options:
        options.check(request.options)
    if not request.messages:
        return _empty_response(request, clock, "load")
    if request.response_format is not None:
        formats.require_valid(request.response_format)
    for message in request.messages:
        if message.images:
            capabilities.require(media.required_capabilities(_images(request)), request.model, info)
            break
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=request.model))
    return None


def _images(request: ChatRequest) -> list[str]:
    return [image for message in request.messages or () if message.images for image in message.images]


def _empty_response(request: ChatRequest, clock: Clock, reason: str) -> DirectResponse:
    """One object, also if a stream was requested (R088)."""
    message = ResponseMessage("assistant", "")
    response = ChatResponse(request.model, rfc3339(clock.time_ns()), message, True, reason)
    return DirectResponse(json_lines.encode(response))


def prepare(request: ChatRequest, plan: ModelPlan, clock: Clock) -> NextStep:
    upstream = _upstream_request(request, plan)
    if plan.window is None:
        return _send(upstream, request, plan.info, clock)
    return _send_within(upstream, request, plan, clock)


def adapt(request: ChatRequest, plan: ModelPlan, clock: Clock, *refusals: AttemptFailed) -> NextStep | None:
    """Apply the limits that the refusals name, and change what the template refuses. Drops the oldest turns (R145)."""
    media_needed = media.required_capabilities(_images(request))
    capabilities.explain_refusal(refusals[-1], request.model, media_needed, plan.defaults)
    think_option.explain_refusal(refusals[-1], request.think, request.model)
    info = plan.info
    upstream = _upstream_request(request, plan, refusals)
    others = [each for each in refusals if not _is_answered(each)]
    has_less = len(others) < len(refusals)
    form = strict_templates.form_after(others, upstream.messages, info)
    if form is None:
        if has_less:
            raise refusals[-1]
        return None
    within = limits.within_limits(upstream, refusals)
    send = partial(_send, request=request, info=info, clock=clock)
    window = plan.window
    if any(map(limits.is_too_long, refusals)):
        changed = within or upstream
        if changed.max_tokens is None and not request.may_shorten:
            return None

        def without_old_turns() -> NextStep:
            if not request.may_shorten:
                raise refusals[-1]
            return shorten.shortened(changed, info.context_length, form=form, send=send, window=window)

        if limits.is_counted(refusals[-1]):
            return without_old_turns()
        return shorten.fitted(strict_templates.apply(form, changed), send, without_old_turns, window)
    if within is None and form is strict_templates.unchanged and not has_less:
        return None
    return _send_within(within or upstream, request, plan, clock, form)


def _is_answered(failure: AttemptFailed) -> bool:
    """True for a refusal after which the request leaves something out."""
    return continuation.is_refusal(failure) or think_option.is_refusal(failure) or capabilities.refuses_tools(failure)


def _send_within(
    upstream: api.VllmChatRequest,
    request: ChatRequest,
    plan: ModelPlan,
    clock: Clock,
    form: strict_templates.Form = strict_templates.unchanged,
) -> NextStep:
    """Send the request. One beyond a context smaller than the worker's counts as refused; `adapt` shortens it."""
    chat, window = strict_templates.apply(form, upstream), plan.window
    if window is None or request.debug_render_only or surely_fits(api.encode(chat), chat.max_tokens, window):
        return _send(chat, request, plan.info, clock)
    return shorten.within_window(chat, window, partial(_send, request=request, info=plan.info, clock=clock))


def _send(upstream: api.VllmChatRequest, request: ChatRequest, info: ModelInfo, clock: Clock) -> NextStep:
    if request.debug_render_only:
        return render.render_chat(upstream, lambda text: _rendered(request, clock, text))
    continued = upstream.continue_final_message and continuation.continues_text(request, info)
    return UpstreamRequest(
        api.CHAT_PATH,
        api.encode(upstream),
        partial(translator, all_content=True) if continued else None,
        resume=chat_without_prompt(upstream) if upstream.return_token_ids else None,
    )


def _upstream_request(
    request: ChatRequest, plan: ModelPlan, refusals: Sequence[AttemptFailed] = ()
) -> api.VllmChatRequest:
    """Leave out the continuation and the switch of thinking if they were refused."""
    chat = messages.with_defaults(request.messages or (), plan.defaults)
    translated = messages.translate(chat, plan.info.template)
    drops_tools = plan.defaults.ignores_tools and capabilities.drops_tools(plan.info, plan.defaults, refusals)
    if drops_tools:
        translated = strict_templates.without_tools(translated)
    upstream = plan.chat(request, translated, refusals)
    if request.tools and not drops_tools and (declared := tools.translate(request.tools)):
        upstream.tools = declared
        upstream.stream_interval = None  # vLLM's tool parsers can lose arguments of grouped tokens
        upstream.return_token_ids = False
    if translated[-1].role == "assistant":
        continuation.leave_open(upstream, request, plan.info, refusals)
    if request.stream and plan.resumes and is_resumable(upstream, plan.info):
        upstream.return_token_ids = True
    return upstream


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
    writer: Callable[[str], ChatWriter] = ChatWriter,
    timestamps: TimestampFormatter | None = None,
    all_content: bool = False,
) -> TextTranslator:
    """`writer`: returns that of a model."""
    blanks = None if request.response_format is None else BlankLimit()
    logprobs = request.top_logprobs if request.logprobs else None
    answer = AnswerBuilder(writer(request.model), clock, request.stream, logprobs, False, None, all_content, blanks)
    return TextTranslator(answer, timing, clock, request.stream, timestamps or TimestampFormatter())
