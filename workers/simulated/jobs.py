"""The answers to requests, decided before anything is generated."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllama_pool.workers.simulated import answers, errors, template, vocabulary
from vllama_pool.workers.simulated.answers import AnswerPlan, Call, SimulatedText
from vllama_pool.workers.simulated.checks import check_logprobs
from vllama_pool.workers.simulated.collector import Collected
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.generation import Ending
from vllama_pool.workers.simulated.options import VERSION, Options
from vllama_pool.workers.simulated.prompts import as_prompts, check_model, is_thinking_disabled, limited, rendered
from vllama_pool.workers.simulated.requests import wanted_tokens
from vllama_pool.workers.simulated.shapes import (
    ChatBody,
    CompletionRequest,
    NamedTool,
    Sampling,
    Tool,
)
from vllama_pool.workers.simulated.streams import ResponseHead, Stream

FINGERPRINT = f"vllm-{VERSION}"
COMPLETION_TOKENS = 16
MAX_CALLS = 8


@dataclass(frozen=True, slots=True)
class Format:
    """The responses of a route."""

    prefix: str
    """Of ids."""
    stream: type[Stream]
    whole: Callable[[ResponseHead, Counts, Sequence[Collected]], dict[str, Any]]
    error: errors.Shape = errors.openai
    limit_name: str = ""
    """Parameter for the number of tokens, if an error names it otherwise than the request."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request. `texts` and `endings` have an item per sequence."""

    format: Format
    head: ResponseHead
    stream: bool
    texts: tuple[SimulatedText, ...] = ()
    endings: tuple[Ending, ...] = ()
    error: ApiError | None = None
    """The only event of the stream."""


def chat_job(body: ChatBody, options: Options, format: Format, request_id: str | None, **more: Any) -> Job:
    """`more`: fields of the response's head. Raises ApiError."""
    check_model(body.model, options)
    _check_chat(body, options)
    tokens = wanted_tokens(body)
    named = isinstance(body.tool_choice, NamedTool)
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    head = _head(body, options, format, request_id, logprobs)
    head = replace(
        head,
        include_reasoning=body.include_reasoning,
        reasoning=options.reasoning,
        max_calls=1 if body.parallel_tool_calls is False else None,
        automatic=body.tool_choice in (None, "auto"),
        **more,
    )
    try:
        check_logprobs(logprobs or 0, body.stream)
        prompt = limited(rendered(body, options), body, options)
        head = replace(head, prompts=(prompt,))
        thinking = options.reasoning and not is_thinking_disabled(body)
        plan = AnswerPlan(
            thinking=thinking and not body.continue_final_message,
            calls=_calls(body, options),
            calls_finish="stop" if named else "tool_calls",
            document=_document(body, answers.question(prompt)),
            length=options.answer_tokens,
        )
    except ApiError as error:
        return _failed(head, body, format, error)
    name = format.limit_name or ("max_tokens" if body.max_completion_tokens is None else "max_completion_tokens")
    _check_limit(tokens, options, name)
    texts = _texts(prompt, plan, head.choices)
    if thinking and body.continue_final_message and not answers.has_think_tag(prompt):
        texts = [answers.as_reasoning(text) for text in texts]
    return _job(head, body, format, options, texts, tokens)


def completion_job(body: CompletionRequest, options: Options, format: Format, request_id: str | None) -> Job:
    """Raises ApiError."""
    check_model(body.model, options)
    head = _head(body, options, format, request_id, body.logprobs)
    texts: list[SimulatedText] = []
    try:
        check_logprobs(body.logprobs or 0, body.stream)
        prompts = [limited(prompt, body, options) for prompt in _prompts(body)]
        for prompt in prompts:
            plan = AnswerPlan(
                thinking=options.reasoning and answers.begins_answer(prompt),
                document=_document(body, answers.question(prompt)),
                length=options.answer_tokens,
            )
            texts += [answers.untagged(text) for text in _texts(prompt, plan, head.choices)]
    except ApiError as error:
        return _failed(head, body, format, error)
    tokens = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    _check_limit(tokens, options, "max_tokens")
    echo = tuple(vocabulary.decode(prompt) for prompt in prompts) if body.echo else ()
    head = replace(head, prompts=tuple(prompts), echo=echo, prompt_only=tokens == 0)
    return _job(head, body, format, options, texts, tokens)


def _failed(head: ResponseHead, body: Sampling, format: Format, error: ApiError) -> Job:
    if not error.in_stream:
        raise error
    return Job(format, head, bool(body.stream), error=error)


def _job(
    head: ResponseHead,
    body: ChatBody | CompletionRequest,
    format: Format,
    options: Options,
    texts: Sequence[SimulatedText],
    tokens: int | None,
) -> Job:
    endings = [_ending(body, options, tokens, len(prompt)) for prompt in head.prompts for _ in range(head.choices)]
    head = replace(head, limit=endings[0].limit)
    return Job(format, head, bool(body.stream), tuple(texts), tuple(endings))


def _texts(prompt: Sequence[int], plan: AnswerPlan, choices: int) -> list[SimulatedText]:
    """Each choice is a token longer than the one before."""
    return [answers.answer(prompt, replace(plan, length=plan.length + index)) for index in range(choices)]


def _ending(body: ChatBody | CompletionRequest, options: Options, tokens: int | None, prompt: int) -> Ending:
    wanted = 1 if tokens == 0 else tokens or options.default_max_tokens or options.max_model_len
    most = min(wanted, options.max_max_tokens or wanted)
    return Ending(
        limit=max(1, min(most, options.max_model_len - prompt)),
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        include_stop=body.include_stop_str_in_output,
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
    )


def _check_limit(tokens: int | None, options: Options, name: str) -> None:
    limit = options.max_model_len
    if tokens is not None and tokens > limit:
        raise errors.parameter(
            f"{name}={tokens} cannot be greater than max_model_len={limit}. Please request fewer output tokens.",
            name,
            tokens,
        )


def _check_chat(body: ChatBody, options: Options) -> None:
    if body.chat_template is not None:
        raise ApiError(
            "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request "
            "with untrusted chat template."
        )
    if not options.chat_template:
        raise errors.no_template()
    if body.tools and body.tool_choice in (None, "auto") and not options.tool_calls:
        raise ApiError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    if body.tools and body.tool_choice == "required" and not options.tool_parser:
        raise ApiError('tool_choice="required" requires --tool-call-parser to be set')
    if body.tools and isinstance(body.tool_choice, NamedTool) and not options.tool_parser:
        named = body.tool_choice.function.name
        raise ApiError(f'tool_choice=function "{named}" requires --tool-call-parser to be set')


def _calls(body: ChatBody, options: Options) -> tuple[Call, ...]:
    """Return the required call, or one per mention of the weather in the question."""
    if not body.tools or body.tool_choice == "none":
        return ()
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        tool = next((tool for tool in body.tools if tool.function.name == name), None)
        if tool is None:
            raise ApiError(f"The tool with name '{name}' is not found in the tools list.")
        return (_call(tool),)
    mentions = template.last_question(body.messages, options.model).count("weather")
    count = max(mentions, 1 if body.tool_choice == "required" else 0)
    return tuple(_call(body.tools[index % len(body.tools)]) for index in range(min(count, MAX_CALLS)))


def _call(tool: Tool) -> Call:
    return Call(tool.function.name, answers.document(tool.function.parameters or {"type": "object"}, "simulated"))


def _head(
    body: Sampling, options: Options, format: Format, request_id: str | None, logprobs: int | None
) -> ResponseHead:
    streaming = body.stream_options if body.stream else None
    return ResponseHead(
        id=format.prefix + (body.request_id or request_id or secrets.token_hex(8)),
        created=int(time.time()),
        model=options.model,
        fingerprint=FINGERPRINT,
        choices=body.n or 1,
        return_token_ids=bool(body.return_token_ids),
        logprobs=logprobs,
        include_usage=bool(streaming and streaming.include_usage),
        continuous_usage=bool(streaming and streaming.continuous_usage_stats),
        prompt_details=options.prompt_tokens_details,
        timings=options.per_request_metrics,
        stream_interval=body.stream_interval or 1,
    )


def _document(body: ChatBody | CompletionRequest, question: str) -> str | None:
    """Raises ApiError for an invalid schema."""
    response_format = body.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return answers.document(None, question)
    schema = (response_format.json_schema and response_format.json_schema.schema_) or {}
    if (bad := answers.invalid_type(schema)) is not None:
        raise ApiError(f"Grammar error: Invalid type: {bad}", in_stream=bool(body.stream))
    return answers.document(schema, question)


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    """Raises ApiError for unknown token ids."""
    found = as_prompts(body.prompt or [])
    for prompt in found:
        try:
            vocabulary.decode([] if isinstance(prompt, str) else prompt)
        except ValueError as error:
            raise ApiError(str(error), in_stream=bool(body.stream)) from error
    return found
