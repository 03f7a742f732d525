"""The endpoints that a worker answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.anthropic import prompt as anthropic
from vllama_pool.router.protocol.clock import TimestampFormatter
from vllama_pool.router.protocol.ollama import chat, embed, generate, options, requests, stream_interval
from vllama_pool.router.protocol.ollama.chat_response import ChatWriter
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.protocol.ollama.generate_response import GenerateWriter
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan as OllamaPlan
from vllama_pool.router.protocol.ollama.not_found import embedding_text, generation_text
from vllama_pool.router.protocol.openai import chat as chat_completions
from vllama_pool.router.protocol.openai import (
    completions,
    tokenization,
)
from vllama_pool.router.protocol.openai.audio import transcription
from vllama_pool.router.protocol.openai.pooling import embeddings, scoring
from vllama_pool.router.protocol.openai.pooling import request as pooling
from vllama_pool.router.protocol.openai.responses import call as responses
from vllama_pool.router.protocol.openai.responses.trial import Trials
from vllama_pool.router.protocol.operation import Clock, DirectResponse, HasModel, NextStep, Operation
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.plan_cache import PlanCache
from vllama_pool.workers.registry.record import ModelInfo

_WRITERS = 1024
"""Writers kept per endpoint: one per spelling of a model's name."""


def operations(clock: Clock, stall_timeout: float = 120.0, max_choices: int = 16) -> tuple[Operation[Any], ...]:
    """`clock` dates responses that need no worker. `stall_timeout`: seconds of silence that count as a stall.
    `max_choices`: the largest `n` of OpenAI's requests."""
    plans = PlanCache(lambda info, defaults: ModelPlan(info, defaults, options.sampling, translated_defaults))
    return (
        *_ollama(clock, stall_timeout),
        *_openai(plans, max_choices),
        *_pooling(),
        *_tokenization(plans),
        *_audio(),
        *_anthropic(plans),
    )


def _openai(plans: PlanCache[ModelPlan], max_choices: int) -> tuple[Operation[Any], ...]:
    trials = Trials()
    return (
        Operation(
            name="v1 chat",
            path="/v1/chat/completions",
            decode=lambda body: chat_completions.decode(body, max_choices),
            check=chat_completions.check,
            **_planned(plans, chat_completions.prepare, chat_completions.adapt),
            translator=chat_completions.translator,
            not_found=generation_text,
            content_type=_event_stream_or_json,
        ),
        Operation(
            name="v1 completions",
            path="/v1/completions",
            decode=lambda body: completions.decode(body, max_choices),
            check=_by_model(completions.check),
            **_planned(plans, completions.prepare, completions.adapt),
            translator=completions.translator,
            not_found=generation_text,
            content_type=_event_stream_or_json,
        ),
        Operation(
            name="v1 responses",
            path="/v1/responses",
            decode=responses.decode,
            check=responses.check,
            **_planned(plans, responses.prepare, responses.adapt, trials),
            translator=responses.translator,
            not_found=generation_text,
            content_type=_event_stream_or_json,
        ),
    )


def _pooling() -> tuple[Operation[Any], ...]:
    return (
        Operation(
            name="v1 embeddings",
            path="/v1/embeddings",
            decode=embeddings.decode,
            check=_by_model(embeddings.check),
            prepare=embeddings.prepare,
            adapt=embeddings.adapt,
            translator=pooling.translator,
            not_found=embedding_text,
            content_type=_json,
        ),
        *(
            Operation(
                name=path.strip("/").replace("/", " "),
                path=path,
                decode=scoring.decode_rerank,
                check=_by_model(scoring.check_rerank),
                prepare=partial(scoring.prepare_rerank, path),
                adapt=scoring.adapt_rerank,
                translator=pooling.translator,
                not_found=generation_text,
                content_type=_json,
            )
            for path in ("/rerank", "/v1/rerank", "/v2/rerank")
        ),
        *(
            Operation(
                name=path.strip("/").replace("/", " "),
                path=path,
                decode=scoring.decode_score,
                check=_by_model(scoring.check_score),
                prepare=partial(scoring.prepare_score, path),
                adapt=scoring.adapt_score,
                translator=pooling.translator,
                not_found=generation_text,
                content_type=_json,
            )
            for path in ("/score", "/v1/score")
        ),
    )


def _anthropic(plans: PlanCache[ModelPlan]) -> tuple[Operation[Any], ...]:
    return tuple(
        Operation(
            name=name,
            path=path,
            decode=decode,
            check=anthropic.check,
            **_planned(plans, anthropic.prepare, anthropic.adapt),
            translator=anthropic.translator,
            not_found=generation_text,
            content_type=_event_stream_or_json,
        )
        for name, path, decode in (
            ("v1 messages", api.MESSAGES_PATH, anthropic.decode_message),
            ("v1 count tokens", api.COUNT_TOKENS_PATH, anthropic.decode_count),
        )
    )


def _tokenization(plans: PlanCache[ModelPlan]) -> tuple[Operation[Any], ...]:
    return (
        Operation(
            name="tokenize",
            path="/tokenize",
            decode=tokenization.decode_tokenize,
            check=_by_model(tokenization.check_tokenize),
            prepare=lambda request, info, defaults: tokenization.prepare_tokenize(request, plans.of(info, defaults)),
            adapt=tokenization.adapt_tokenize,
            translator=tokenization.translator,
            not_found=generation_text,
            content_type=_json,
        ),
        Operation(
            name="detokenize",
            path="/detokenize",
            decode=tokenization.decode_detokenize,
            check=_by_model(tokenization.check_detokenize),
            prepare=tokenization.prepare_detokenize,
            adapt=tokenization.adapt_detokenize,
            translator=tokenization.translator,
            not_found=generation_text,
            content_type=_json,
        ),
    )


def _audio() -> tuple[Operation[Any], ...]:
    return tuple(
        Operation(
            name=f"v1 {task}",
            path=f"/v1/audio/{task}",
            decode=transcription.decode,
            decode_form=transcription.decode_form,
            check=_by_model(transcription.check),
            prepare=partial(transcription.prepare, f"/v1/audio/{task}"),
            adapt=transcription.adapt,
            translator=transcription.translator,
            not_found=generation_text,
            content_type=transcription.content_type,
        )
        for task in ("transcriptions", "translations")
    )


def _planned(
    plans: PlanCache[Any], prepare: Callable[..., NextStep], adapt: Callable[..., NextStep | None], *more: object
) -> dict[str, Any]:
    """Return an operation's functions, which call these with the model's plan. `more`: further arguments."""
    return {
        "prepare": lambda request, info, defaults: prepare(request, plans.of(info, defaults), *more),
        "adapt": lambda request, info, defaults, *refusals: adapt(request, plans.of(info, defaults), *more, *refusals),
    }


def _by_model(check: Callable[[Any, ModelInfo], DirectResponse | None]) -> Callable[..., DirectResponse | None]:
    """Return a check that the model's defaults have no effect on."""
    return lambda request, info, _: check(request, info)


def _json(request: HasModel) -> str:
    return json_lines.JSON


def _event_stream_or_json(request: HasModel) -> str:
    return json_lines.EVENTS if request.stream else json_lines.JSON


def _ollama(clock: Clock, stall_timeout: float) -> tuple[Operation[Any], ...]:
    timestamps = TimestampFormatter()

    def plan(info: ModelInfo, defaults: Defaults) -> OllamaPlan:
        stall = stall_timeout if defaults.stall is None else defaults.stall
        return OllamaPlan(info, defaults, stream_interval.of_whole_answers(stall))

    plans = PlanCache(plan)
    return (
        Operation(
            name="chat",
            path="/api/chat",
            decode=requests.decode_chat,
            check=lambda request, info, defaults: chat.check(request, info, clock, defaults),
            **_planned(plans, chat.prepare, chat.adapt, clock),
            translator=partial(chat.translator, writer=lru_cache(_WRITERS)(ChatWriter), timestamps=timestamps),
            not_found=generation_text,
            content_type=lambda request: json_lines.content_type(request.stream),
        ),
        Operation(
            name="generate",
            path="/api/generate",
            decode=requests.decode_generate,
            check=lambda request, info, _: generate.check(request, info, clock),
            **_planned(plans, generate.prepare, generate.adapt, clock),
            translator=partial(generate.translator, writer=lru_cache(_WRITERS)(GenerateWriter), timestamps=timestamps),
            not_found=generation_text,
            content_type=lambda request: json_lines.content_type(request.stream),
        ),
        *(
            Operation(
                name=name,
                path=f"/api/{name}",
                decode=decode,
                check=_by_model(embed.check),
                prepare=embed.prepare,
                adapt=embed.adapt,
                untruncated=embed.untruncated,
                translator=EmbedTranslator,
                not_found=embedding_text,
                content_type=lambda request: json_lines.JSON,
            )
            for name, decode in (("embed", embed.decode_embed), ("embeddings", embed.decode_embeddings))
        ),
    )
