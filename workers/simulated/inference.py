"""Chat and completion requests."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec

from vllama_pool.workers.simulated import answers, context, errors, faults, template, vocabulary
from vllama_pool.workers.simulated.answers import AnswerPlan, Call
from vllama_pool.workers.simulated.engine_loop import EngineLoop
from vllama_pool.workers.simulated.errors import ApiError, HttpResponse
from vllama_pool.workers.simulated.generation import Ending, Generation
from vllama_pool.workers.simulated.generation_task import GenerationTask
from vllama_pool.workers.simulated.http_server import Exchange, Request
from vllama_pool.workers.simulated.metrics import SimulatedMetrics
from vllama_pool.workers.simulated.options import VERSION, Options
from vllama_pool.workers.simulated.requests import (
    ChatBody,
    CompletionRequest,
    NamedTool,
    TokenizeChat,
    Tool,
    parse_chat,
    parse_completion,
)
from vllama_pool.workers.simulated.responses import Collector, chat_response, completion_response
from vllama_pool.workers.simulated.streams import ChatStream, CompletionStream, ResponseHead, Stream

FINGERPRINT = f"vllm-{VERSION}"
ADMISSION_WINDOW = 0.005
"""Seconds between vLLM's check of its queue limit and the request's registration.

Simultaneous requests all pass the check; the engine rejects the excess after the 200.
"""
COMPLETION_TOKENS = 16


class Inference:
    def __init__(
        self,
        options: Options,
        engine_loop: EngineLoop,
        metrics: SimulatedMetrics,
        *,
        unavailable: Callable[[], ApiError | None],
        die: Callable[[], None],
    ) -> None:
        self.tasks: set[GenerationTask] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.aborted = 0
        self._options = options
        self._engine_loop = engine_loop
        self._metrics = metrics
        self._unavailable = unavailable
        self._die = die

    def chat(self, request: Request, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        body = parse_chat(request.body, request.headers.get("content-type", ""), self._options.max_stop_strings)
        self.check_model(body.model)
        self._check_chat(body)
        thinking = self._options.reasoning and not _is_thinking_disabled(body)
        prompt = self._limit(self.rendered(body), body)
        call = self._call(body)
        plan = AnswerPlan(
            thinking=thinking and not body.continue_final_message,
            call=call,
            document=_document(body, answers.question(prompt)),
            length=self._options.answer_tokens,
        )
        head = self._head("chatcmpl-", body, request, prompt, body.top_logprobs or 0 if body.logprobs else None)
        task = self._task(exchange, fault)
        task.output = self._chat_output(task, body, head, call, thinking)
        answer = answers.answer(prompt, plan)
        if thinking and body.continue_final_message and not answers.has_think_tag(prompt):
            answer = answers.as_reasoning(answer)
        self._start(task, body, head, answer, body.max_completion_tokens or body.max_tokens)

    def completion(self, request: Request, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        body = parse_completion(request.body, request.headers.get("content-type", ""), self._options.max_stop_strings)
        self.check_model(body.model)
        prompt = self._limit(_completion_prompt(body), body)
        plan = AnswerPlan(
            thinking=self._options.reasoning and answers.begins_answer(prompt),
            document=_document(body, answers.question(prompt)),
            length=self._options.answer_tokens,
        )
        head = self._head("cmpl-", body, request, prompt, body.logprobs)
        task = self._task(exchange, fault)
        echo = vocabulary.decode(prompt) if body.echo else ""
        if body.stream:
            task.output = CompletionStream(
                head, exchange.event, lambda: exchange.blocked, **self._figures(task, head, False), echo=echo
            )
        else:
            task.output = Collector(
                lambda: self._engine_loop.call_after_flush(lambda: self._complete(task, head, echo))
            )
        whole = answers.untagged(answers.answer(prompt, plan))
        self._start(task, body, head, whole, body.max_tokens or COMPLETION_TOKENS)

    def abort_all(self) -> None:
        self._engine_loop.engine.clear()
        for task in list(self.tasks):
            task.abort()
        self._engine_loop.flush()

    def check_model(self, name: str | None) -> None:
        """A missing name means the first model. Raises ApiError."""
        if name and name not in self._options.names:
            raise errors.unknown_model(name, self._options.names)

    def check_available(self) -> None:
        if (error := self._unavailable()) is not None:
            raise error

    def rendered(self, body: ChatBody | TokenizeChat) -> str:
        """Raises ApiError."""
        return template.render(
            body.messages,
            body.tools,
            model=self._options.model,
            strict=self._options.strict_template,
            no_thinking=self._options.reasoning and _is_thinking_disabled(body),
            add_generation_prompt=body.add_generation_prompt,
            continue_final=body.continue_final_message,
        )

    # --- from a request to a generation ---

    def _check_chat(self, body: ChatBody) -> None:
        if body.chat_template is not None:
            raise ApiError(
                "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request "
                "with untrusted chat template."
            )
        if not self._options.chat_template:
            raise errors.no_template()
        if body.tools and body.tool_choice in (None, "auto") and not self._options.tool_calls:
            raise ApiError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
        if body.tools and body.tool_choice == "required" and not self._options.tool_parser:
            raise ApiError('tool_choice="required" requires --tool-call-parser to be set')
        if body.tools and isinstance(body.tool_choice, NamedTool) and not self._options.tool_parser:
            raise ApiError(f'tool_choice="{body.tool_choice.function.name}" requires --tool-call-parser to be set')

    def _limit(self, prompt: str | list[int], body: ChatBody | CompletionRequest) -> list[int]:
        """Tokenize, and truncate on request. Raises ApiError."""
        truncate = body.truncate_prompt_tokens
        limit = self._options.max_model_len
        if truncate is not None and truncate > limit:
            raise errors.parameter(
                f"truncate_prompt_tokens={truncate} cannot be greater than max_model_len = {limit}. Please request a "
                "smaller truncation size.",
                "truncate_prompt_tokens",
                truncate,
            )
        if truncate == 0:
            raise ApiError("The decoder prompt cannot be empty", in_stream=bool(body.stream))
        tokens = context.tokenize(prompt, limit, truncated=truncate is not None)
        if truncate is not None:
            return tokens[-(limit - 1 if truncate == -1 else truncate) :]
        context.check(prompt, tokens, limit, room=1)
        return tokens

    def _call(self, body: ChatBody) -> Call | None:
        """Return the required call, or the first tool's for a question about the weather."""
        if not body.tools or body.tool_choice == "none":
            return None
        tool: Tool | None = None
        if isinstance(body.tool_choice, NamedTool):
            name = body.tool_choice.function.name
            tool = next(tool for tool in body.tools if tool.function.name == name)
        elif body.tool_choice == "required" or "weather" in template.last_question(body.messages, self._options.model):
            tool = body.tools[0]
        if tool is None:
            return None
        arguments = answers.document(tool.function.parameters or {"type": "object"}, "simulated")
        finish = "stop" if isinstance(body.tool_choice, NamedTool) else "tool_calls"
        return Call(tool.function.name, arguments, finish)

    def _head(
        self,
        prefix: str,
        body: ChatBody | CompletionRequest,
        request: Request,
        prompt: list[int],
        logprobs: int | None,
    ) -> ResponseHead:
        options = body.stream_options if body.stream else None
        request_id = body.request_id or request.headers.get("x-request-id")
        return ResponseHead(
            id=prefix + (request_id or secrets.token_hex(8)),
            created=int(time.time()),
            model=self._options.model,
            fingerprint=FINGERPRINT,
            prompt_ids=prompt,
            return_token_ids=bool(body.return_token_ids),
            logprobs=logprobs,
            include_usage=bool(options and options.include_usage),
            continuous_usage=bool(options and options.continuous_usage_stats),
            include_reasoning=not isinstance(body, ChatBody) or body.include_reasoning,
            stream_interval=body.stream_interval or 1,
        )

    def _task(self, exchange: Exchange, fault: faults.RequestFault | None) -> GenerationTask:
        task = GenerationTask(exchange, self._engine_loop, fault, self._die)
        task.on_finish = self._forget
        return task

    def _chat_output(
        self, task: GenerationTask, body: ChatBody, head: ResponseHead, call: Call | None, thinking: bool
    ) -> Stream | Collector:
        if body.stream:
            exchange = task.exchange
            figures = self._figures(task, head, self._options.reasoning)
            return ChatStream(head, exchange.event, lambda: exchange.blocked, **figures, call_id=_call_id)
        auto = body.tool_choice in (None, "auto")
        return Collector(lambda: self._engine_loop.call_after_flush(lambda: self._complete_chat(task, head, auto)))

    def _wanted(self, max_tokens: int | None) -> int:
        options = self._options
        wanted = max_tokens or options.default_max_tokens or options.max_model_len
        return min(wanted, options.max_max_tokens or wanted)

    def _start(
        self,
        task: GenerationTask,
        body: ChatBody | CompletionRequest,
        head: ResponseHead,
        whole: answers.SimulatedText,
        max_tokens: int | None,
    ) -> None:
        """Raises ApiError."""
        prompt = len(head.prompt_ids)
        limit = self._options.max_model_len
        if max_tokens is not None and max_tokens > limit:
            raise errors.parameter(
                f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output "
                "tokens.",
                "max_tokens",
                max_tokens,
            )
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        ending = Ending(
            limit=max(1, min(self._wanted(max_tokens), limit - prompt)),
            stop=stop,
            include_stop=body.include_stop_str_in_output,
            ignore_eos=body.ignore_eos,
            min_tokens=body.min_tokens,
        )
        self.check_available()
        if self._is_full():
            raise self._reject()
        self.tasks.add(task)
        self.idle.clear()
        if task.inject_early():
            return
        if body.stream:
            task.exchange.begin()
        self._metrics.limited(ending.limit)
        loop = asyncio.get_running_loop()
        generation = Generation(prompt, whole, ending, task)
        if self._options.max_num_queued_reqs is None:
            loop.call_soon(self._register, task, generation)
        else:
            loop.call_later(ADMISSION_WINDOW, self._register, task, generation)

    def _register(self, task: GenerationTask, generation: Generation) -> None:
        if task.finished:
            return
        if self._is_full():
            task.fail(self._reject())
            return
        task.entry = self._engine_loop.submit(generation)

    def _is_full(self) -> bool:
        most = self._options.max_num_queued_reqs
        engine = self._engine_loop.engine
        return most is not None and len(engine.running) + len(engine.waiting) >= most

    def _reject(self) -> ApiError:
        self._metrics.rejected += 1
        return errors.busy()

    def _forget(self, task: GenerationTask) -> None:
        self.tasks.discard(task)
        if not self.tasks:
            self.idle.set()
        self.aborted += task.aborted

    # --- from a generation to an answer ---

    def _complete_chat(self, task: GenerationTask, head: ResponseHead, auto: bool) -> None:
        collected = task.output
        if task.finished or not isinstance(collected, Collector):
            return
        figures = self._figures(task, head, self._options.reasoning, whole=True)
        document = chat_response(
            head,
            collected,
            usage=figures["final_usage"](),
            metrics=figures["metrics"](),
            call_id=_call_id(),
            auto=auto,
        )
        task.respond(HttpResponse(200, msgspec.json.encode(document)))

    def _complete(self, task: GenerationTask, head: ResponseHead, echo: str) -> None:
        collected = task.output
        if task.finished or not isinstance(collected, Collector):
            return
        figures = self._figures(task, head, False, whole=True)
        usage, metrics = figures["final_usage"](), figures["metrics"]()
        document = completion_response(head, collected, usage=usage, metrics=metrics, echo=echo)
        task.respond(HttpResponse(200, msgspec.json.encode(document)))

    def _figures(
        self, task: GenerationTask, head: ResponseHead, reasoning: bool, *, whole: bool = False
    ) -> dict[str, Callable[[], Any]]:
        prompt = len(head.prompt_ids)

        def usage() -> dict[str, Any]:
            fields: dict[str, Any] = {
                "prompt_tokens": prompt,
                "total_tokens": prompt + task.tokens,
                "completion_tokens": task.tokens,
            }
            if head.id.startswith("chat"):
                fields["completion_tokens_details"] = {"reasoning_tokens": task.reasoning} if reasoning else None
            return fields

        def final_usage() -> dict[str, Any]:
            fields = {key: value for key, value in usage().items() if key != "completion_tokens_details"}
            details = self._prompt_details(head, whole)
            if details is not None or whole:
                fields["prompt_tokens_details"] = details
            if reasoning or whole:
                fields["completion_tokens_details"] = {"reasoning_tokens": task.reasoning} if reasoning else None
            return fields

        return {"usage": usage, "final_usage": final_usage, "metrics": lambda: self._timing(task, whole)}

    def _prompt_details(self, head: ResponseHead, whole: bool) -> dict[str, Any] | None:
        if not self._options.prompt_tokens_details:
            return None
        details: dict[str, Any] = {"cached_tokens": 0}
        if head.id.startswith("chat"):
            details["created_cache_tokens"] = 0
        elif whole:
            details["created_cache_tokens"] = None
        if whole:
            details["multimodal_tokens"] = None
        return details

    def _timing(self, task: GenerationTask, whole: bool) -> dict[str, Any] | None:
        """In ms."""
        entry = task.entry
        if not self._options.per_request_metrics or entry is None:
            return None
        generation = (task.last - task.first) * 1000
        inference = task.last - entry.scheduled
        fields: dict[str, Any] = {
            "time_to_first_token_ms": (task.first - entry.scheduled) * 1000,
            "generation_time_ms": generation,
            "queue_time_ms": (entry.scheduled - entry.arrived) * 1000,
            "mean_itl_ms": generation / (task.tokens - 1) if task.tokens > 1 else None,
            "tokens_per_second": task.tokens / inference if inference > 0 else None,
        }
        if whole:
            fields["speculative_decoding"] = None
            return fields
        return {key: value for key, value in fields.items() if value is not None}


def _is_thinking_disabled(body: ChatBody | TokenizeChat) -> bool:
    enabled = (body.chat_template_kwargs or {}).get("enable_thinking")
    effort = body.reasoning_effort if isinstance(body, ChatBody) else None
    return enabled is False or (enabled is None and effort == "none")


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


def _completion_prompt(body: CompletionRequest) -> str | list[int]:
    """Raises ApiError for several prompts or unknown token ids."""
    prompt: Any = body.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise ApiError("The simulated worker answers one prompt at a time.", param="prompt")
        prompt = prompt[0]
    if isinstance(prompt, list):
        try:
            vocabulary.decode(prompt)
        except ValueError as error:
            raise ApiError(str(error), in_stream=bool(body.stream)) from error
    return cast(str | list[int], prompt)


def _call_id() -> str:
    return f"chatcmpl-tool-{secrets.token_hex(8)}"
