"""POST /api/generate: checks, and the request to vLLM (R049-R070).

A prompt becomes a chat; with `raw`, `suffix` or without a chat template a completion. With a `context`, the chat is
rendered to tokens, which follow the context's tokens in a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import capabilities, json_lines, media
from vllama_pool.router.protocol.clock import TimestampFormatter, rfc3339
from vllama_pool.router.protocol.ollama import (
    formats,
    messages,
    options,
    render,
    think_option,
)
from vllama_pool.router.protocol.ollama.answer_builder import AnswerBuilder
from vllama_pool.router.protocol.ollama.blank_limit import BlankLimit
from vllama_pool.router.protocol.ollama.generate_response import GenerateResponse, GenerateWriter
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.ollama.requests import GenerateRequest, default_messages
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import Clock, DirectResponse, NextStep, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, shorten, strict_templates, think_tags, tokenize
from vllama_pool.router.protocol.vllm.resumable import chat_without_prompt, refusal, text_without_prompt
from vllama_pool.router.protocol.vllm.strict_templates import Form, unchanged
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter
from vllama_pool.router.protocol.vllm.window import surely_fits
from vllama_pool.workers.registry.record import ModelInfo

RAW_CONFLICT = "raw mode does not support template, system, or context"
NO_TEMPLATES = "template is not supported: vLLM renders the model's own chat template; use raw for your own prompt"
NO_IMAGES = "images need a chat template: leave out raw, suffix and context, or use a model that has a template"
Change = Callable[[api.VllmCompletionRequest, int, int], api.VllmCompletionRequest]
"""Takes the context and the prompt's length, in tokens."""

PROMPT_END = 8
"""Tokens at a prompt's end that may hold a think tag."""


def check(request: GenerateRequest, info: ModelInfo, clock: Clock) -> DirectResponse | None:
    if not request.prompt and request.keep_alive == 0:
        return _empty_response(request, clock, "unload")
    capabilities.refuse_image_generation(info)
    if request.raw and (request.template or request.system or request.context):
        raise BadRequest(RAW_CONFLICT)
    if request.think:
        think_option.check_capability(request.think, request.model, info)
    capabilities.require_completion("generate", request.model, info)
    if request.suffix:
        capabilities.require(("insert",), request.model, info)
    if request.options:
        options.check(request.options)
    if not request.prompt:
        return _empty_response(request, clock, "load")
    if request.response_format is not None:
        formats.require_valid(request.response_format)
    if request.template:
        raise BadRequest(NO_TEMPLATES)
    if request.context and min(request.context) < 0:
        raise BadRequest(f"{min(request.context)} in context is not a token id; send that of an earlier response")
    if request.images:
        capabilities.require(media.required_capabilities(request.images), request.model, info)
        if request.context or not _is_chat(request, info):
            raise BadRequest(NO_IMAGES)
    return None


def _empty_response(request: GenerateRequest, clock: Clock, reason: str) -> DirectResponse:
    stamp = rfc3339(clock.time_ns())
    response = GenerateResponse(model=request.model, created_at=stamp, response="", done=True, done_reason=reason)
    return DirectResponse(json_lines.encode(response))


def _is_chat(request: GenerateRequest, info: ModelInfo) -> bool:
    return info.has_template and not request.raw and not request.suffix


def prepare(request: GenerateRequest, plan: ModelPlan, clock: Clock) -> NextStep:
    if request.debug_render_only:
        return _render(request, plan, clock)
    if request.context:
        return _after_context(request, plan, _within_window(plan))
    if _is_chat(request, plan.info):
        return _send_chat_within(_chat(request, plan), plan)
    return _send_within(_completion(request, plan, _plain_prompt(request, plan.defaults)), plan)


def adapt(request: GenerateRequest, plan: ModelPlan, clock: Clock, *refusals: AttemptFailed) -> NextStep | None:
    info = plan.info
    capabilities.explain_refusal(refusals[-1], request.model, media.required_capabilities(request.images or ()))
    think_option.explain_refusal(refusals[-1], request.think, request.model)
    is_too_long = any(map(limits.is_too_long, refusals))
    if is_too_long and request.context and not request.may_shorten:
        return None
    if _is_chat(request, info):
        return _adapted_chat(request, plan, clock, refusals)
    if not limits.is_known(refusals[-1]):
        return None
    if request.context:
        return _after_context(request, plan, _adaptation(plan, refusals))
    prompt = _plain_prompt(request, plan.defaults)
    upstream = _completion(request, plan, prompt)
    if not is_too_long:
        within = limits.within_limits(upstream, refusals)
        return _send_within(within, plan) if within is not None else None
    if upstream.max_tokens is None and not request.may_shorten:
        return None

    def on_count(count: api.VllmTokenCount) -> NextStep:
        if fitting := shorten.fit(upstream, count.max_model_len, count.count):
            return _send(limits.within_limits(fitting, refusals) or fitting)
        if not request.may_shorten:
            raise refusals[-1]
        return _send(_cut(upstream, count.max_model_len, refusals))

    return tokenize.count_text(info.name, prompt, on_count, window=plan.window)


def _adapted_chat(
    request: GenerateRequest, plan: ModelPlan, clock: Clock, refusals: Sequence[AttemptFailed]
) -> NextStep | None:
    info = plan.info
    chat = _chat(request, plan, refusals)
    others = [each for each in refusals if not think_option.is_refusal(each)]
    has_less = len(others) < len(refusals)
    form = strict_templates.form_after(others, chat.messages, info)
    if form is None:
        if has_less:
            raise refusals[-1]
        return None
    if request.debug_render_only:
        return _render(request, plan, clock, form)
    if request.context:
        return _after_context(request, plan, _adaptation(plan, refusals), form)
    within = limits.within_limits(chat, refusals)
    if any(map(limits.is_too_long, refusals)):
        changed = within or chat
        if changed.max_tokens is None and not request.may_shorten:
            return None

        def cut() -> NextStep:
            if not request.may_shorten:
                raise refusals[-1]
            return shorten.shortened(changed, info.context_length, form=form, window=plan.window)

        if limits.is_counted(refusals[-1]):
            return cut()
        return shorten.fitted(strict_templates.apply(form, changed), shorten.send_chat, cut, plan.window)
    if within is None and form is unchanged and not has_less:
        return None
    return _send_chat_within(within or chat, plan, form)


def _send_chat_within(upstream: api.VllmChatRequest, plan: ModelPlan, form: Form = unchanged) -> NextStep:
    """Send the request. One beyond a context smaller than the worker's counts as refused; `adapt` shortens it."""
    chat, window = strict_templates.apply(form, upstream), plan.window
    body = api.encode(chat)
    if window is None or surely_fits(body, chat.max_tokens, window):
        return UpstreamRequest(api.CHAT_PATH, body, resume=chat_without_prompt(chat))
    return shorten.within_window(chat, window, shorten.send_chat)


def _send_within(upstream: api.VllmCompletionRequest, plan: ModelPlan) -> NextStep:
    """Send a text. One beyond a context smaller than the worker's counts as refused; `adapt` cuts it."""
    window, prompt = plan.window, upstream.prompt
    if window is None or surely_fits(api.encode(upstream), upstream.max_tokens, window):
        return _send(upstream)
    assert isinstance(prompt, str)  # tokens have been counted
    change = _within_window(plan)
    return tokenize.count_text(
        plan.info.name, prompt, lambda count: _send(change(upstream, count.max_model_len, count.count)), window=window
    )


def _within_window(plan: ModelPlan) -> Change:
    """Return the change of a request that may exceed a context smaller than the worker's. It raises Refused."""
    if plan.window is None:
        return lambda upstream, limit, tokens: upstream
    return shorten.limited_to


def _adaptation(plan: ModelPlan, refusals: Sequence[AttemptFailed]) -> Change:
    """Return the change of a request whose prompt is given as tokens."""
    is_too_long = any(map(limits.is_too_long, refusals))
    within_window = _within_window(plan)

    def change(upstream: api.VllmCompletionRequest, limit: int, tokens: int) -> api.VllmCompletionRequest:
        if not is_too_long:
            return within_window(limits.within_limits(upstream, refusals) or upstream, limit, tokens)
        if fitting := shorten.fit(upstream, limit, tokens):
            return limits.within_limits(fitting, refusals) or fitting
        return _cut(upstream, limit, refusals)

    return change


def _cut(
    upstream: api.VllmCompletionRequest, limit: int, refusals: Sequence[AttemptFailed]
) -> api.VllmCompletionRequest:
    """Shorten the prompt. `limit`: the context in tokens."""
    return shorten.cut(limits.within_limits(upstream, refusals) or upstream, limit)


def _send(upstream: api.VllmCompletionRequest, begun: bool | None = None) -> UpstreamRequest:
    """`begun`: True if the prompt ends inside think tags; None without tags."""
    body = api.encode(upstream)
    if begun is None:
        return UpstreamRequest(api.COMPLETIONS_PATH, body, resume=text_without_prompt(upstream))
    return UpstreamRequest(
        api.COMPLETIONS_PATH, body, lambda *args: translator(*args, think_tags=ThinkTagSplitter(begun=begun))
    )


def _chat(request: GenerateRequest, plan: ModelPlan, refusals: Sequence[AttemptFailed] = ()) -> api.VllmChatRequest:
    """Omits the model's own messages if a `context` contains them."""
    defaults, prompt = plan.defaults, request.prompt
    chat: list[api.VllmMessage] = []
    if system := request.system or defaults.system:
        chat.append(api.VllmMessage("system", system))
    if defaults.messages and not request.context:
        chat += messages.translate(default_messages(defaults.messages))
    chat.append(api.VllmMessage("user", messages.parts(prompt, request.images) if request.images else prompt))
    upstream = plan.chat(request, chat, refusals)
    upstream.return_token_ids = True
    return upstream


def _plain_prompt(request: GenerateRequest, defaults: Defaults) -> str:
    system = "" if request.raw or request.suffix else request.system or defaults.system
    return f"{system}\n\n{request.prompt}" if system else request.prompt


def _completion(request: GenerateRequest, plan: ModelPlan, prompt: str | list[int]) -> api.VllmCompletionRequest:
    completion = plan.completion(request, prompt)
    completion.suffix = request.suffix or None
    completion.return_token_ids = completion.return_token_ids or not request.raw
    if request.stream and plan.resumes and not completion.return_token_ids:
        completion.return_token_ids = not refusal(completion, plan.info)
    return completion


def _after_context(request: GenerateRequest, plan: ModelPlan, change: Change, form: Form = unchanged) -> NextStep:
    """Complete the context's tokens and the prompt's (R054)."""
    info = plan.info
    has_tags = _is_chat(request, info) and think_tags.uses_tags(info)

    def on_tokens(tokenized: api.VllmTokenized) -> NextStep:
        upstream = _completion(request, plan, [*(request.context or ()), *tokenized.tokens])
        end = "".join(text or "" for text in (tokenized.token_strs or ())[-PROMPT_END:])
        changed = change(upstream, tokenized.max_model_len, len(upstream.prompt))
        return _send(changed, think_tags.ends_inside(end) if has_tags else None)

    if _is_chat(request, info):
        chat = strict_templates.apply(form, _chat(request, plan))
        return tokenize.tokenize_chat(chat, on_tokens, with_texts=has_tags, window=plan.window)
    return tokenize.tokenize_text(info.name, _plain_prompt(request, plan.defaults), on_tokens, window=plan.window)


def _render(request: GenerateRequest, plan: ModelPlan, clock: Clock, form: Form = unchanged) -> NextStep:
    info = plan.info

    def respond(text: str) -> DirectResponse:
        stamp = rfc3339(clock.time_ns())
        debug_info = DebugInfo(text, len(request.images or ()))
        response = GenerateResponse(
            model=request.model, created_at=stamp, response="", done=False, debug_info=debug_info
        )
        return DirectResponse(json_lines.encode(response))

    if _is_chat(request, info):
        chat = strict_templates.apply(form, _chat(request, plan))
        return render.render_chat(chat, respond, after=request.context)
    return render.render_text(info.name, _plain_prompt(request, plan.defaults), respond, after=request.context)


def translator(
    request: GenerateRequest,
    timing: Timing,
    clock: Clock,
    *,
    writer: Callable[[str], GenerateWriter] = GenerateWriter,
    timestamps: TimestampFormatter | None = None,
    think_tags: ThinkTagSplitter | None = None,
) -> TextTranslator:
    """Collects `context` unless raw (R056, R067). `writer`: returns that of a model."""
    blanks = None if request.response_format is None else BlankLimit()
    logprobs = request.top_logprobs if request.logprobs else None
    answer = AnswerBuilder(
        writer(request.model), clock, request.stream, logprobs, not request.raw, think_tags, False, blanks
    )
    return TextTranslator(answer, timing, clock, request.stream, timestamps or TimestampFormatter())
