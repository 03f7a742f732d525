"""POST /api/generate: checks, and the request to vLLM (R049-R070).

A prompt is a chat of one user message (trap 14), unless it is `raw`, has a `suffix`, or the model has no chat
template: those go to vLLM's completions as they are. After a `context` the chat's tokens do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from vllama_pool.router.protocol.ollama.chat import completed
from vllama_pool.router.protocol.ollama.generate_response import GenerateResponse, GenerateWriter
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.ollama.requests import GenerateRequest, default_messages, may_shorten
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, shorten, think_tags, tokenize
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter
from vllama_pool.workers.registry.record import ModelInfo

RAW_CONFLICT = "raw mode does not support template, system, or context"
NO_TEMPLATES = "template is not supported: vLLM renders the model's own chat template; use raw for a prompt of your own"
NO_IMAGES = (
    "images are not supported without a chat template: not with raw, suffix or context, nor by a model without one"
)
TAIL = 8
"""Tokens at a prompt's end that are looked at for a tag which the template has opened."""


def check(request: GenerateRequest, info: ModelInfo, clock: Clock) -> DirectResponse | None:
    """In Ollama's order: unload, raw, thinking, capabilities, option types, load, then what a run would find."""
    keep = durations.keep_alive(request.keep_alive)
    if not request.prompt and keep == 0:
        return _reply(request, clock, "unload")
    capabilities.refuse_image_makers(info)
    if request.raw and (request.template or request.system or request.context):
        raise BadRequest(RAW_CONFLICT)
    think_option.check_capability(request.think, request.model, info)
    capabilities.require_completion("generate", request.model, info)
    capabilities.require(["insert"] if request.suffix else [], request.model, info)
    if request.options:
        options.check(request.options)
    if not request.prompt:
        return _reply(request, clock, "load")
    formats.check_format(request.format)
    if request.template:
        raise BadRequest(NO_TEMPLATES)
    if request.context and min(request.context) < 0:
        raise BadRequest(f"{min(request.context)} in context is no token id: send what a former answer had there")
    capabilities.require(images.wanted(request.images or ()), request.model, info)
    if request.images and (request.context or not _templated(request, info)):
        raise BadRequest(NO_IMAGES)
    return None


def _reply(request: GenerateRequest, clock: Clock, reason: str) -> DirectResponse:
    """R088."""
    stamp = rfc3339(clock.time_ns())
    return json_lines.reply(
        GenerateResponse(model=request.model, created_at=stamp, response="", done=True, done_reason=reason)
    )


def _templated(request: GenerateRequest, info: ModelInfo) -> bool:
    return info.has_template and not request.raw and not request.suffix


def prepare(request: GenerateRequest, info: ModelInfo, defaults: Defaults, clock: Clock) -> NextStep:
    """`_debug_render_only` asks for the prompt alone (R066)."""
    if request.debug_render_only:
        return _render(request, info, defaults, clock)
    if request.context:
        return _after_context(request, info, defaults, lambda sent, _: sent)
    if _templated(request, info):
        return UpstreamRequest(api.CHAT_PATH, api.encode(_chat(request, info, defaults)))
    return _send(_completion(request, info, defaults, _plain(request, defaults)))


def adapt(request: GenerateRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> NextStep | None:
    """The same without what is too long (R145), or within the worker's own limits."""
    too_long = any(map(limits.is_too_long, refusals))
    if not limits.is_known(refusals[-1]) or (too_long and not may_shorten(request)):
        return None
    if request.context:
        return _after_context(request, info, defaults, lambda sent, limit: _better(sent, limit, refusals) or sent)
    if _templated(request, info):
        chat = _chat(request, info, defaults)
        other = limits.within_limits(chat, refusals)
        if too_long:
            return shorten.shortened(other or chat, info.context_length)
        return UpstreamRequest(api.CHAT_PATH, api.encode(other)) if other is not None else None
    sent = _completion(request, info, defaults, _plain(request, defaults))
    if too_long and not info.context_length:
        return tokenize.count_text(
            info.name, "", lambda found: _send(_better(sent, found.max_model_len, refusals) or sent)
        )
    better = _better(sent, info.context_length, refusals)
    return _send(better) if better is not None else None


def _better(
    sent: api.VllmCompletionRequest, limit: int, refusals: Sequence[AttemptFailed]
) -> api.VllmCompletionRequest | None:
    """What the worker may take in place of a completion that it refused. `limit`: the context's tokens."""
    other = limits.within_limits(sent, refusals)
    return shorten.cut(other or sent, limit) if any(map(limits.is_too_long, refusals)) else other


def _send(sent: api.VllmCompletionRequest, begun: bool | None = None) -> UpstreamRequest:
    """`begun`: thinking is to be taken out of the answer's text, and whether the prompt has begun it."""
    body = api.encode(sent)
    if begun is None:
        return UpstreamRequest(api.COMPLETIONS_PATH, body)
    return UpstreamRequest(
        api.COMPLETIONS_PATH, body, lambda *given: translator(*given, thoughts=ThinkTagSplitter(begun=begun))
    )


def _chat(request: GenerateRequest, info: ModelInfo, defaults: Defaults) -> api.VllmChatRequest:
    """A chat of one user message. After a `context` the model's own messages are in that already."""
    chat: list[api.VllmMessage] = []
    if system := request.system or defaults.system:
        chat.append(api.VllmMessage("system", system))
    if not request.context:
        chat += messages.translate(default_messages(defaults.messages))
    prompt = request.prompt
    chat.append(api.VllmMessage("user", messages.parts(prompt, request.images) if request.images else prompt))
    return completed(
        api.VllmChatRequest(
            model=info.name,
            messages=chat,
            stream=True,
            stream_options=api.INCLUDE_USAGE,
            response_format=formats.translate(request.format),
            return_token_ids=True,
            **options.sampling(options.merge(request.options, defaults.options, info), info),
        ),
        request,
        info,
    )


def _plain(request: GenerateRequest, defaults: Defaults) -> str:
    """Without a template a system text can only go in front of the prompt."""
    system = "" if request.raw or request.suffix else request.system or defaults.system
    return f"{system}\n\n{request.prompt}" if system else request.prompt


def _completion(
    request: GenerateRequest, info: ModelInfo, defaults: Defaults, prompt: str | list[int]
) -> api.VllmCompletionRequest:
    values = options.sampling(options.merge(request.options, defaults.options, info), info)
    return api.VllmCompletionRequest(
        model=info.name,
        prompt=prompt,
        stream=True,
        stream_options=api.INCLUDE_USAGE,
        suffix=request.suffix or None,
        response_format=formats.translate(request.format),
        logprobs=request.wanted_logprobs,
        return_token_ids=not request.raw,
        **options.fill_context(values, info),
    )


Change = Callable[[api.VllmCompletionRequest, int], api.VllmCompletionRequest]
"""Makes another of a completion, given the context's tokens."""


def _after_context(request: GenerateRequest, info: ModelInfo, defaults: Defaults, change: Change) -> NextStep:
    """The former turn's token ids, then those of the rendered prompt (R054)."""
    tagged = _templated(request, info) and think_tags.are_tagged(info)

    def tokenized(found: api.VllmTokenized) -> NextStep:
        sent = _completion(request, info, defaults, [*(request.context or ()), *found.tokens])
        end = "".join(text or "" for text in (found.token_strs or ())[-TAIL:])
        return _send(change(sent, found.max_model_len), think_tags.are_open(end) if tagged else None)

    if _templated(request, info):
        return tokenize.of_chat(_chat(request, info, defaults), tokenized, with_texts=tagged)
    return tokenize.of_text(info.name, _plain(request, defaults), tokenized)


def _render(request: GenerateRequest, info: ModelInfo, defaults: Defaults, clock: Clock) -> NextStep:
    def reply(text: str) -> DirectResponse:
        stamp = rfc3339(clock.time_ns())
        shown = DebugInfo(text, len(request.images or ()))
        return json_lines.reply(
            GenerateResponse(model=request.model, created_at=stamp, response="", done=False, debug_info=shown)
        )

    if _templated(request, info):
        return render.of_chat(_chat(request, info, defaults), reply, after=request.context)
    return render.of_text(info.name, _plain(request, defaults), reply, after=request.context)


def translator(
    request: GenerateRequest, timing: Timing, clock: Clock, *, thoughts: ThinkTagSplitter | None = None
) -> TextTranslator:
    """With `context` unless raw (R056, R067)."""
    return TextTranslator(
        GenerateWriter(request.model),
        timing,
        clock,
        stream=request.stream,
        logprobs=request.wanted_logprobs,
        keep_ids=not request.raw,
        thoughts=thoughts,
    )
