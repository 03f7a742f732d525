"""POST /v1/completions: checks, and the request to vLLM (R028, R115).

The prompt is sent as it is. Ollama's layer puts it into the chat template; so does `templated_completions`.
"""

from __future__ import annotations

from typing import Any

from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import capabilities
from vllama_pool.router.protocol.openai import requests, templated_completions
from vllama_pool.router.protocol.openai.chat import explain_context
from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.openai.hiding_stream import HidingStream
from vllama_pool.router.protocol.openai.requests import CompletionRequest
from vllama_pool.router.protocol.operation import Clock, NextStep, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, tokenize
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.request_body import missing_field
from vllama_pool.router.protocol.vllm.resumable import WITH_IDS, of_fields
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_choices
from vllama_pool.router.protocol.vllm.window import SLACK, lower, room_after, too_long
from vllama_pool.workers.registry.record import ModelInfo

MAX_COUNTED = 16
"""Longest texts of a request to count."""
MAX_PROMPTS = 1024
"""Prompts times choices of one request; each takes a place in the worker's batch."""


def decode(body: bytes, max_choices: int) -> CompletionRequest:
    """Raises BadRequest."""
    request = requests.COMPLETION.decode(body)
    requests.require_model(request.model)
    requests.refuse_server_fields(body)
    requests.check_choices("n", request.n, max_choices)
    requests.check_choices("best_of", request.best_of, max_choices)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise BadRequest("'best_of' is not supported by vLLM; use 'n'", param="best_of")
    request.best_of = None
    if request.prompt is None or request.prompt == []:
        raise missing_field("prompt")
    if choices(request) > MAX_PROMPTS:
        raise BadRequest(f"too many prompts: send at most {MAX_PROMPTS // (request.n or 1)}", param="prompt")
    if request.max_tokens is not None and request.max_tokens < (0 if request.echo else 1):
        raise requests.below_minimum("max_tokens", request.max_tokens)
    return request


def choices(request: CompletionRequest) -> int:
    """Return the number of choices in the answer."""
    prompt = request.prompt
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return prompts * (request.n or 1)


def check(request: CompletionRequest, info: ModelInfo) -> None:
    """Raises BadRequest if the model lacks what the request needs."""
    capabilities.refuse_image_generation(info)
    capabilities.require_completion("completions", request.model, info)
    if request.suffix:
        capabilities.require(("insert",), request.model, info)


def prepare(request: CompletionRequest, plan: ModelPlan) -> NextStep:
    return _send_within(request, _upstream(request, plan), plan)


def adapt(request: CompletionRequest, plan: ModelPlan, *refusals: AttemptFailed) -> NextStep | None:
    """Apply limits that the refusals name."""
    explain_context(refusals[-1], "prompt")
    known = [refusal for refusal in refusals if not limits.is_stop_limit(refusal)]
    within = limits.within_limits(_upstream(request, plan), known)
    return None if within is None else _send_within(request, within, plan)


def _upstream(request: CompletionRequest, plan: ModelPlan) -> CompletionRequest:
    upstream = request.copy()
    upstream.model = plan.info.name
    if upstream.stream:
        upstream.ask_usage()
    else:
        upstream.stream_options = None
    plan.complete(upstream, streams_text=upstream.stream)
    upstream.max_tokens = plan.limit_output(upstream.max_tokens)
    if plan.output is not None:
        upstream.limit_minimum(plan.output)
    return upstream


def _send_within(request: CompletionRequest, upstream: CompletionRequest, plan: ModelPlan) -> NextStep:
    """Send the request. If it may exceed a context smaller than the worker's, count the prompts first."""
    window = plan.window
    if window is None:
        return _send(request, upstream, plan)

    def within(longest: int) -> UpstreamRequest:
        limited = upstream.copy()
        room = room_after(longest, window)
        limited.max_tokens = lower(limited.max_tokens, room)
        limited.limit_minimum(room)
        return _send(request, limited, plan)

    if templated_completions.applies(request, plan):
        sent = templated_completions.messages(request, plan)
        return tokenize.count_conversation(plan.info.name, sent, lambda count: within(count.count))
    texts, tokens = _prompts(request)
    longest = max(map(len, tokens), default=0)
    if longest >= window:
        raise too_long(longest, window)
    bytes_, max_tokens = max((len(text.encode()) for text in texts), default=0), upstream.max_tokens or 0
    if max(longest, bytes_ + SLACK) + max_tokens <= window:
        return _send(request, upstream, plan)
    counted = sorted(texts, key=len, reverse=True)[:MAX_COUNTED]
    return tokenize.count_longest(plan.info.name, counted, within, longest)


def _prompts(request: CompletionRequest) -> tuple[list[str], list[list[int]]]:
    """Return the prompts that are texts, and those that are tokens."""
    prompt: Any = request.prompt
    if isinstance(prompt, str):
        return [prompt], []
    if isinstance(prompt[0], int):
        return [], [prompt]
    return [each for each in prompt if isinstance(each, str)], [each for each in prompt if isinstance(each, list)]


def _send(request: CompletionRequest, upstream: CompletionRequest, plan: ModelPlan) -> UpstreamRequest:
    if templated_completions.applies(request, plan):
        return templated_completions.prepare(request, upstream, plan)
    body = api.encode(upstream)
    if not (upstream.stream and plan.resumes and choices(request) == 1):
        return UpstreamRequest(api.COMPLETIONS_PATH, body, whole=not upstream.stream)
    resume = of_fields(upstream, body, plan.info)
    if resume is not None:
        upstream.prompt = None
        body = b"%b%b}" % (body[:-1], WITH_IDS)
    return UpstreamRequest(api.COMPLETIONS_PATH, body, None if resume is None else hiding_translator, resume=resume)


def translator(request: CompletionRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    if request.stream:
        return ChunkStream(request.model, choices(request), request.includes_usage)
    return WholeAnswer(request.model, read_choices)


def hiding_translator(request: CompletionRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    """Of a stream that can be continued."""
    return HidingStream(request.model, 1, request.includes_usage)
