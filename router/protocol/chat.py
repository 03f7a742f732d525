"""POST /api/chat: checks, the request to vLLM, and how its answer is written (R071-R086)."""

from __future__ import annotations

import msgspec

from config.defaults import Defaults
from router.errors import BadRequest
from router.protocol import (
    capabilities,
    durations,
    formats,
    images,
    lines,
    messages,
    openai,
    options,
    thinking,
)
from router.protocol.answer import Final, Piece
from router.protocol.clock import rfc3339
from router.protocol.fold import AnswerFold
from router.protocol.logprobs import Entry
from router.protocol.operation import Clock, Outgoing, Reply, Timing
from router.protocol.requests import ChatRequest
from router.protocol.tool_calls import AnswerCall
from workers.record import ModelInfo

NO_TEMPLATE = 'chat needs a chat template and "{model}" has none: use /api/generate, or start vLLM with --chat-template'


class AnswerMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[AnswerCall] | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Fields in Ollama's order; those with a default are omitted when empty."""

    model: str
    created_at: str
    message: AnswerMessage
    done: bool
    done_reason: str = ""
    logprobs: list[Entry] | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatLines:
    """Writes chat's objects for one request."""

    __slots__ = ("_head", "_model")

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":' + lines.quoted(model) + b',"created_at":"'

    def text(self, stamp: str, content: str) -> bytes:
        return b'%b%b","message":{"role":"assistant","content":%b},"done":false}' % (
            self._head,
            stamp.encode(),
            lines.quoted(content),
        )

    def piece(self, stamp: str, piece: Piece) -> bytes:
        return lines.encode(Answer(self._model, stamp, _message(piece), False, "", piece.logprobs))

    def final(self, stamp: str, piece: Piece, final: Final) -> bytes:
        return lines.encode(
            Answer(
                self._model,
                stamp,
                _message(piece),
                True,
                final.done_reason,
                piece.logprobs,
                final.total_duration,
                final.load_duration,
                final.prompt_eval_count,
                final.prompt_eval_duration,
                final.eval_count,
                final.eval_duration,
            )
        )


def _message(piece: Piece) -> AnswerMessage:
    return AnswerMessage("assistant", piece.content, piece.thinking, piece.tool_calls)


def check(request: ChatRequest, info: ModelInfo, clock: Clock) -> Reply | None:
    """In Ollama's order: unload, thinking, capabilities, option types, load, then what only a run would find."""
    keep = durations.keep_alive(request.keep_alive)
    if not request.messages and keep == 0:
        return _reply(request, clock, "unload")
    thinking.check_capability(request.think, request.model, info)
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


def _reply(request: ChatRequest, clock: Clock, reason: str) -> Reply:
    """R088."""
    stamp = rfc3339(clock.time_ns())
    return lines.reply(Answer(request.model, stamp, AnswerMessage("assistant", ""), True, reason))


def prepare(request: ChatRequest, info: ModelInfo, defaults: Defaults) -> Outgoing:
    """Always vLLM's chat endpoint, streamed or not."""
    return outgoing(
        request.wanted_logprobs,
        openai.ChatRequest(
            model=info.name,
            messages=messages.translate(request.messages or ()),
            stream=True,
            stream_options=openai.INCLUDE_USAGE,
            tools=messages.tools(request.tools),
            response_format=formats.translate(request.format),
            **options.sampling(options.merge(request.options, defaults.options, info), info),
        ),
        thinking.translate(request.think, info),
    )


def outgoing(wanted: int | None, body: openai.ChatRequest, think: thinking.Thinking) -> Outgoing:
    """A chat request with what generate adds to it in the same way."""
    body.chat_template_kwargs = think.kwargs
    body.reasoning_effort = think.effort
    if wanted is not None:
        body.logprobs = True
        body.top_logprobs = wanted
    return Outgoing(openai.CHAT_PATH, openai.encode(body))


def fold(request: ChatRequest, timing: Timing, clock: Clock) -> AnswerFold:
    return AnswerFold(ChatLines(request.model), timing, clock, stream=request.stream, logprobs=request.wanted_logprobs)
