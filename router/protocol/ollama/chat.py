"""POST /api/chat: checks, and the request to vLLM (R071-R086)."""

from __future__ import annotations

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.clock import rfc3339
from vllama_pool.router.protocol.ollama import capabilities, formats, images, messages, options, render, think_option
from vllama_pool.router.protocol.ollama.answer_builder import AnswerBuilder
from vllama_pool.router.protocol.ollama.chat_response import ChatResponse, ChatWriter, ResponseMessage
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.ollama.requests import ChatRequest, InferenceRequest
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, shorten
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


def prepare(request: ChatRequest, info: ModelInfo, defaults: Defaults, clock: Clock) -> NextStep:
    upstream = _upstream_request(request, info, defaults)
    if request.debug_render_only:
        return render.render_chat(upstream, lambda text: _rendered(request, clock, text))
    return UpstreamRequest(api.CHAT_PATH, api.encode(upstream))


def adapt(request: ChatRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> NextStep | None:
    """Apply the limits that the refusals name. Drops the oldest turns (R145)."""
    if not limits.is_known(refusals[-1]):
        return None
    upstream = _upstream_request(request, info, defaults)
    within = limits.within_limits(upstream, refusals)
    if any(map(limits.is_too_long, refusals)):
        return shorten.shortened(within or upstream, info.context_length) if request.may_shorten else None
    return UpstreamRequest(api.CHAT_PATH, api.encode(within)) if within is not None else None


def _upstream_request(request: ChatRequest, info: ModelInfo, defaults: Defaults) -> api.VllmChatRequest:
    chat = messages.with_defaults(request.messages or (), defaults)
    upstream = api.VllmChatRequest(
        model=info.name,
        messages=messages.for_template(messages.translate(chat), info.template),
        stream=True,
        stream_options=api.INCLUDE_USAGE,
        tools=messages.tools(request.tools),
        response_format=formats.require_valid(request.response_format),
        **options.sampling(options.merge(request.options, defaults.options, info), info),
    )
    set_thinking_and_logprobs(upstream, request, info)
    return upstream


def set_thinking_and_logprobs(upstream: api.VllmChatRequest, request: InferenceRequest, info: ModelInfo) -> None:
    think = think_option.translate(request.think, info)
    upstream.chat_template_kwargs = think.kwargs
    upstream.reasoning_effort = think.effort
    if request.logprob_alternatives is not None:
        upstream.logprobs = True
        upstream.top_logprobs = request.logprob_alternatives


def _rendered(request: ChatRequest, clock: Clock, text: str) -> DirectResponse:
    debug_info = DebugInfo(text, len(_images(request)))
    message = ResponseMessage("", "")
    response = ChatResponse(request.model, rfc3339(clock.time_ns()), message, False, debug_info=debug_info)
    return DirectResponse(json_lines.encode(response))


def translator(request: ChatRequest, timing: Timing, clock: Clock) -> TextTranslator:
    writer = ChatWriter(request.model)
    answer = AnswerBuilder(writer, stream=request.stream, logprobs=request.logprob_alternatives)
    return TextTranslator(answer, timing, clock, stream=request.stream)
