"""POST /v1/completions: checks, and the request to vLLM (R028, R115).

The prompt is sent as it is. Ollama's layer puts it into the chat template; so does `templated_completions`.
"""

from __future__ import annotations

from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import capabilities
from vllama_pool.router.protocol.openai import requests, templated_completions
from vllama_pool.router.protocol.openai.chat import explain_context
from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.openai.requests import CompletionRequest
from vllama_pool.router.protocol.operation import Clock, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.request_body import missing_field
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer
from vllama_pool.workers.registry.record import ModelInfo

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


def prepare(request: CompletionRequest, plan: ModelPlan) -> UpstreamRequest:
    return _send(request, _upstream(request, plan), plan)


def adapt(request: CompletionRequest, plan: ModelPlan, *refusals: AttemptFailed) -> UpstreamRequest | None:
    """Apply limits that the refusals name."""
    explain_context(refusals[-1], "prompt")
    known = [refusal for refusal in refusals if not limits.is_stop_limit(refusal)]
    within = limits.within_limits(_upstream(request, plan), known)
    return None if within is None else _send(request, within, plan)


def _upstream(request: CompletionRequest, plan: ModelPlan) -> CompletionRequest:
    upstream = request.copy()
    upstream.model = plan.info.name
    if upstream.stream:
        upstream.ask_usage()
    else:
        upstream.stream_options = None
    plan.complete(upstream, streams_text=upstream.stream)
    upstream.max_tokens = plan.within_context(upstream.max_tokens)
    return upstream


def _send(request: CompletionRequest, upstream: CompletionRequest, plan: ModelPlan) -> UpstreamRequest:
    if templated_completions.applies(request, plan):
        return templated_completions.prepare(request, upstream, plan)
    return UpstreamRequest(api.COMPLETIONS_PATH, api.encode(upstream), whole=not upstream.stream)


def translator(request: CompletionRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    if request.stream:
        return ChunkStream(request.model, choices(request), request.includes_usage)
    return WholeAnswer(request.model)
