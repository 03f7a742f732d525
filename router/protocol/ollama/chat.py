"""POST /api/chat: checks, the request to vLLM, and how its answer is written (R071-R086)."""

from __future__ import annotations

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.clock import rfc3339
from vllama_pool.router.protocol.ollama import (
    capabilities,
    durations,
    formats,
    images,
    messages,
    options,
    render,
    think_option,
)
from vllama_pool.router.protocol.ollama.chunks import Chunk, FinalFields
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.ollama.requests import ChatRequest, InferenceRequest, may_shorten
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, shorten
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall
from vllama_pool.workers.registry.record import ModelInfo

NO_TEMPLATE = 'chat needs a chat template and "{model}" has none: use /api/generate, or start vLLM with --chat-template'


class ResponseMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[ResponseToolCall] | None = None


class ChatResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Fields in Ollama's order; those with a default are omitted when empty."""

    model: str
    created_at: str
    message: ResponseMessage
    done: bool
    done_reason: str = ""
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")
    logprobs: list[LogprobEntry] | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatWriter:
    """Writes chat's objects for one request."""

    __slots__ = ("_head", "_model")

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":' + json_lines.quoted(model) + b',"created_at":"'

    def text(self, stamp: str, content: str) -> bytes:
        return b'%b%b","message":{"role":"assistant","content":%b},"done":false}' % (
            self._head,
            stamp.encode(),
            json_lines.quoted(content),
        )

    def piece(self, stamp: str, piece: Chunk) -> bytes:
        return json_lines.encode(ChatResponse(self._model, stamp, _message(piece), False, "", None, piece.logprobs))

    def final(self, stamp: str, piece: Chunk, final: FinalFields) -> bytes:
        return json_lines.encode(
            ChatResponse(
                self._model,
                stamp,
                _message(piece),
                True,
                final.done_reason,
                None,
                piece.logprobs,
                final.total_duration,
                final.load_duration,
                final.prompt_eval_count,
                final.prompt_eval_duration,
                final.eval_count,
                final.eval_duration,
            )
        )


def _message(piece: Chunk) -> ResponseMessage:
    return ResponseMessage("assistant", piece.content, piece.thinking, piece.tool_calls)


def check(request: ChatRequest, info: ModelInfo, clock: Clock) -> DirectResponse | None:
    """In Ollama's order: unload, thinking, capabilities, option types, load, then what only a run would find."""
    keep = durations.keep_alive(request.keep_alive)
    if not request.messages and keep == 0:
        return _reply(request, clock, "unload")
    capabilities.refuse_image_makers(info)
    think_option.check_capability(request.think, request.model, info)
    capabilities.require_completion("chat", request.model, info)
    capabilities.require(["tools"] if request.tools else [], request.model, info)
    if request.options:
        options.check(request.options)
    if not request.messages:
        return _reply(request, clock, "load")
    formats.check_format(request.format)
    capabilities.require(images.wanted(_images(request)), request.model, info)
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=request.model))
    return None


def _images(request: ChatRequest) -> list[str]:
    return [image for message in request.messages or () for image in message.images or ()]


def _reply(request: ChatRequest, clock: Clock, reason: str) -> DirectResponse:
    """R088."""
    stamp = rfc3339(clock.time_ns())
    return json_lines.reply(ChatResponse(request.model, stamp, ResponseMessage("assistant", ""), True, reason))


def prepare(request: ChatRequest, info: ModelInfo, defaults: Defaults, clock: Clock) -> NextStep:
    """Always vLLM's chat endpoint, streamed or not. `_debug_render_only` asks for the prompt alone (R066)."""
    sent = _sent(request, info, defaults)
    if request.debug_render_only:
        return render.of_chat(sent, lambda text: _rendered(request, clock, text))
    return UpstreamRequest(api.CHAT_PATH, api.encode(sent))


def adapt(request: ChatRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> NextStep | None:
    """The same without its oldest turns where it is too long (R145), or within the worker's own limits."""
    if not limits.is_known(refusals[-1]):
        return None
    sent = _sent(request, info, defaults)
    other = limits.within_limits(sent, refusals)
    if any(map(limits.is_too_long, refusals)):
        return shorten.shortened(other or sent, info.context_length) if may_shorten(request) else None
    return UpstreamRequest(api.CHAT_PATH, api.encode(other)) if other is not None else None


def _sent(request: ChatRequest, info: ModelInfo, defaults: Defaults) -> api.VllmChatRequest:
    chat = messages.with_defaults(request.messages or (), defaults)
    return completed(
        api.VllmChatRequest(
            model=info.name,
            messages=messages.for_template(messages.translate(chat), info.template),
            stream=True,
            stream_options=api.INCLUDE_USAGE,
            tools=messages.tools(request.tools),
            response_format=formats.translate(request.format),
            **options.sampling(options.merge(request.options, defaults.options, info), info),
        ),
        request,
        info,
    )


def completed(sent: api.VllmChatRequest, request: InferenceRequest, info: ModelInfo) -> api.VllmChatRequest:
    """A chat request with what generate adds to it in the same way: thinking and logprobs."""
    think = think_option.translate(request.think, info)
    sent.chat_template_kwargs = think.kwargs
    sent.reasoning_effort = think.effort
    if request.wanted_logprobs is not None:
        sent.logprobs = True
        sent.top_logprobs = request.wanted_logprobs
    return sent


def _rendered(request: ChatRequest, clock: Clock, text: str) -> DirectResponse:
    stamp = rfc3339(clock.time_ns())
    info = DebugInfo(text, len(_images(request)))
    return json_lines.reply(ChatResponse(request.model, stamp, ResponseMessage("", ""), False, debug_info=info))


def translator(request: ChatRequest, timing: Timing, clock: Clock) -> TextTranslator:
    return TextTranslator(
        ChatWriter(request.model), timing, clock, stream=request.stream, logprobs=request.wanted_logprobs
    )
