"""POST /api/generate: checks, the request to vLLM, and how its answer is written (R049-R070).

A prompt is a chat of one user message (trap 14), unless it is `raw`, has a `suffix`, or the model has no chat
template: those go to vLLM's completions as they are.
"""

from __future__ import annotations

import msgspec

from config.defaults import Defaults
from router.errors import BadRequest
from router.protocol import capabilities, durations, formats, images, lines, messages, openai, options, thinking
from router.protocol.answer import Final, Piece
from router.protocol.chat import outgoing
from router.protocol.clock import rfc3339
from router.protocol.fold import AnswerFold
from router.protocol.logprobs import Entry
from router.protocol.operation import Clock, Outgoing, Reply, Timing
from router.protocol.requests import GenerateRequest
from router.protocol.tool_calls import AnswerCall
from workers.record import ModelInfo

RAW_CONFLICT = "raw mode does not support template, system, or context"
NO_TEMPLATES = "template is not supported: vLLM renders the model's own chat template; use raw for a prompt of your own"
NO_IMAGES = "images are not supported without a chat template: not with raw or suffix, nor by a model without one"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields in Ollama's order; those with a default are omitted when empty."""

    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    tool_calls: list[AnswerCall] | None = None
    logprobs: list[Entry] | None = None


class GenerateLines:
    """Writes generate's objects for one request."""

    __slots__ = ("_head", "_model")

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":' + lines.quoted(model) + b',"created_at":"'

    def text(self, stamp: str, content: str) -> bytes:
        return b'%b%b","response":%b,"done":false}' % (self._head, stamp.encode(), lines.quoted(content))

    def piece(self, stamp: str, piece: Piece) -> bytes:
        return lines.encode(
            Answer(
                model=self._model,
                created_at=stamp,
                response=piece.content,
                thinking=piece.thinking,
                done=False,
                tool_calls=piece.tool_calls,
                logprobs=piece.logprobs,
            )
        )

    def final(self, stamp: str, piece: Piece, final: Final) -> bytes:
        return lines.encode(
            Answer(
                model=self._model,
                created_at=stamp,
                response=piece.content,
                thinking=piece.thinking,
                done=True,
                done_reason=final.done_reason,
                context=final.context,
                total_duration=final.total_duration,
                load_duration=final.load_duration,
                prompt_eval_count=final.prompt_eval_count,
                prompt_eval_duration=final.prompt_eval_duration,
                eval_count=final.eval_count,
                eval_duration=final.eval_duration,
                tool_calls=piece.tool_calls,
                logprobs=piece.logprobs,
            )
        )


def check(request: GenerateRequest, info: ModelInfo, clock: Clock) -> Reply | None:
    """In Ollama's order: unload, raw, thinking, capabilities, option types, load, then what a run would find."""
    keep = durations.keep_alive(request.keep_alive)
    if not request.prompt and keep == 0:
        return _reply(request, clock, "unload")
    if request.raw and (request.template or request.system or request.context):
        raise BadRequest(RAW_CONFLICT)
    thinking.check_capability(request.think, request.model, info)
    capabilities.require_completion("generate", request.model, info)
    capabilities.require(["insert"] if request.suffix else [], request.model, info)
    if request.options:
        options.check(request.options)
    if not request.prompt:
        return _reply(request, clock, "load")
    formats.check_format(request.format)
    if request.template:
        raise BadRequest(NO_TEMPLATES)
    capabilities.require(images.wanted(request.images or ()), request.model, info)
    if request.images and not _templated(request, info):
        raise BadRequest(NO_IMAGES)
    return None


def _reply(request: GenerateRequest, clock: Clock, reason: str) -> Reply:
    """R088."""
    stamp = rfc3339(clock.time_ns())
    return lines.reply(Answer(model=request.model, created_at=stamp, response="", done=True, done_reason=reason))


def _templated(request: GenerateRequest, info: ModelInfo) -> bool:
    return info.has_template and not request.raw and not request.suffix


def prepare(request: GenerateRequest, info: ModelInfo, defaults: Defaults) -> Outgoing:
    values = options.sampling(options.merge(request.options, defaults.options, info), info)
    if not _templated(request, info):
        return _completion(request, info, values)
    chat: list[openai.Message] = []
    if request.system:
        chat.append(openai.Message("system", request.system))
    chat.append(
        openai.Message("user", messages.parts(request.prompt, request.images) if request.images else request.prompt)
    )
    return outgoing(
        request.wanted_logprobs,
        openai.ChatRequest(
            model=info.name,
            messages=chat,
            stream=True,
            stream_options=openai.INCLUDE_USAGE,
            response_format=formats.translate(request.format),
            return_token_ids=True,
            **values,
        ),
        thinking.translate(request.think, info),
    )


def _completion(request: GenerateRequest, info: ModelInfo, values: dict[str, object]) -> Outgoing:
    """Without a template a system text can only go in front of the prompt."""
    prompt = f"{request.system}\n\n{request.prompt}" if request.system else request.prompt
    body = openai.CompletionRequest(
        model=info.name,
        prompt=prompt,
        stream=True,
        stream_options=openai.INCLUDE_USAGE,
        suffix=request.suffix or None,
        response_format=formats.translate(request.format),
        logprobs=request.wanted_logprobs,
        return_token_ids=not request.raw,
        **options.fill_context(values, info),
    )
    return Outgoing(openai.COMPLETIONS_PATH, openai.encode(body))


def fold(request: GenerateRequest, timing: Timing, clock: Clock) -> AnswerFold:
    """With `context` unless raw (R056, R067)."""
    return AnswerFold(
        GenerateLines(request.model),
        timing,
        clock,
        stream=request.stream,
        logprobs=request.wanted_logprobs,
        keep_ids=not request.raw,
    )
