"""Chat and completions."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from vllama_pool.workers.simulated import answers, context, errors, script, template, vocabulary
from vllama_pool.workers.simulated.answers import Call, Wants
from vllama_pool.workers.simulated.chunks import ChatStream, CompletionStream, Head, Stream
from vllama_pool.workers.simulated.documents import Collected, chat_document, completion_document
from vllama_pool.workers.simulated.errors import HttpAnswer, Refusal
from vllama_pool.workers.simulated.generation import Ending, Generation
from vllama_pool.workers.simulated.job import Job
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
from vllama_pool.workers.simulated.runner import Runner
from vllama_pool.workers.simulated.wire import Exchange, Request

FINGERPRINT = f"vllm-{VERSION}"
ADMISSION_WINDOW = 0.005
"""Seconds between vLLM's first check of its queue limit and counting the request.

Simultaneous requests all pass; the engine rejects the excess after the 200.
"""
COMPLETION_TOKENS = 16
"""Default max_tokens of /v1/completions."""


class Inference:
    def __init__(
        self,
        options: Options,
        runner: Runner,
        metrics: SimulatedMetrics,
        *,
        refusal: Callable[[], Refusal | None],
        die: Callable[[], None],
    ) -> None:
        self.jobs: set[Job] = set()
        """Unfinished requests."""
        self.idle = asyncio.Event()
        """Set while `jobs` is empty."""
        self.idle.set()
        self.aborted = 0
        """Requests whose client disconnected."""
        self._options = options
        self._runner = runner
        self._metrics = metrics
        self._refusal = refusal
        self._die = die

    def chat(self, request: Request, exchange: Exchange, fault: script.RequestFault | None) -> None:
        """Raises Refusal."""
        asked = parse_chat(request.body, request.headers.get("content-type", ""), self._options.max_stop_strings)
        self.check_model(asked.model)
        self._check_chat(asked)
        thinking = self._options.reasoning and not _thinking_off(asked)
        prompt = self._limit(self._chat_prompt(asked, thinking), asked)
        call = self._call(asked)
        wants = Wants(
            thinking=thinking and not asked.continue_final_message,
            call=call,
            document=_document(asked, answers.question(prompt)),
            length=self._options.answer_tokens,
        )
        head = self._head("chatcmpl-", asked, request, prompt, asked.top_logprobs or 0 if asked.logprobs else None)
        job = self._job(exchange, fault)
        job.output = self._chat_output(job, asked, head, call, thinking)
        self._start(job, asked, head, answers.answer(prompt, wants), asked.max_completion_tokens or asked.max_tokens)

    def completion(self, request: Request, exchange: Exchange, fault: script.RequestFault | None) -> None:
        """Raises Refusal."""
        asked = parse_completion(request.body, request.headers.get("content-type", ""), self._options.max_stop_strings)
        self.check_model(asked.model)
        prompt = self._limit(_completion_prompt(asked), asked)
        wants = Wants(
            thinking=self._options.reasoning and answers.begins_answer(prompt),
            document=_document(asked, answers.question(prompt)),
            length=self._options.answer_tokens,
        )
        head = self._head("cmpl-", asked, request, prompt, asked.logprobs)
        job = self._job(exchange, fault)
        echo = vocabulary.decode(prompt) if asked.echo else ""
        if asked.stream:
            job.output = CompletionStream(
                head, exchange.event, lambda: exchange.blocked, **self._figures(job, head, False), echo=echo
            )
        else:
            job.output = Collected(lambda: self._runner.after(lambda: self._complete(job, head, echo)))
        whole = answers.untagged(answers.answer(prompt, wants))
        self._start(job, asked, head, whole, asked.max_tokens or COMPLETION_TOKENS)

    def abort_all(self) -> None:
        """End every request with finish reason "abort"."""
        self._runner.engine.clear()
        for job in list(self.jobs):
            job.abort()
        self._runner.flush()

    def check_model(self, name: str | None) -> None:
        """Raises Refusal for an unknown model. A missing name means the first model."""
        if name and name not in self._options.names:
            raise errors.unknown_model(name, self._options.names)

    def check_state(self) -> None:
        """Raises Refusal if the engine is dead or draining."""
        if (refusal := self._refusal()) is not None:
            raise refusal

    def rendered(self, asked: TokenizeChat) -> str:
        """Return the prompt for /tokenize."""
        return template.render(
            asked.messages,
            asked.tools,
            model=self._options.model,
            no_thinking=self._options.reasoning and _thinking_off(asked),
            open_end=asked.add_generation_prompt,
            continue_final=asked.continue_final_message,
        )

    # --- from a request to a generation ---

    def _check_chat(self, asked: ChatBody) -> None:
        if asked.chat_template is not None:
            raise Refusal(
                "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request "
                "with untrusted chat template."
            )
        if not self._options.chat_template:
            raise errors.no_template()
        if asked.tools and asked.tool_choice in (None, "auto") and not self._options.tool_calls:
            raise Refusal('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
        if asked.tools and asked.tool_choice == "required" and not self._options.tool_parser:
            raise Refusal('tool_choice="required" requires --tool-call-parser to be set')
        if asked.tools and isinstance(asked.tool_choice, NamedTool) and not self._options.tool_parser:
            raise Refusal(f'tool_choice="{asked.tool_choice.function.name}" requires --tool-call-parser to be set')

    def _chat_prompt(self, asked: ChatBody, thinking: bool) -> str:
        return template.render(
            asked.messages,
            asked.tools,
            model=self._options.model,
            no_thinking=self._options.reasoning and not thinking,
            open_end=asked.add_generation_prompt,
            continue_final=asked.continue_final_message,
        )

    def _limit(self, prompt: str | list[int], asked: ChatBody | CompletionRequest) -> list[int]:
        """Return the prompt's tokens, truncated on request. Raises Refusal if too many."""
        truncate = asked.truncate_prompt_tokens
        limit = self._options.max_model_len
        if truncate is not None and truncate > limit:
            raise errors.parameter(
                f"truncate_prompt_tokens={truncate} cannot be greater than max_model_len = {limit}. Please request a "
                "smaller truncation size.",
                "truncate_prompt_tokens",
                truncate,
            )
        if truncate == 0:
            raise Refusal("The decoder prompt cannot be empty", inside=bool(asked.stream))
        tokens = context.tokens_of(prompt, limit, truncated=truncate is not None)
        if truncate is not None:
            return tokens[-(limit - 1 if truncate == -1 else truncate) :]
        context.check(prompt, tokens, limit, room=1)
        return tokens

    def _call(self, asked: ChatBody) -> Call | None:
        """Return the required tool call, or the first tool for a question about the weather."""
        if not asked.tools or asked.tool_choice == "none":
            return None
        tool: Tool | None = None
        if isinstance(asked.tool_choice, NamedTool):
            wanted = asked.tool_choice.function.name
            tool = next(tool for tool in asked.tools if tool.function.name == wanted)
        elif asked.tool_choice == "required" or "weather" in template.last_question(
            asked.messages, self._options.model
        ):
            tool = asked.tools[0]
        if tool is None:
            return None
        arguments = answers.document(tool.function.parameters or {"type": "object"}, "simulated")
        finish = "stop" if isinstance(asked.tool_choice, NamedTool) else "tool_calls"
        return Call(tool.function.name, arguments, finish)

    def _head(
        self,
        prefix: str,
        asked: ChatBody | CompletionRequest,
        request: Request,
        prompt: list[int],
        logprobs: int | None,
    ) -> Head:
        options = asked.stream_options if asked.stream else None
        given = asked.request_id or request.headers.get("x-request-id")
        return Head(
            id=prefix + (given or secrets.token_hex(8)),
            created=int(time.time()),
            model=self._options.model,
            fingerprint=FINGERPRINT,
            prompt_ids=prompt,
            return_token_ids=bool(asked.return_token_ids),
            logprobs=logprobs,
            include_usage=bool(options and options.include_usage),
            continuous_usage=bool(options and options.continuous_usage_stats),
            include_reasoning=not isinstance(asked, ChatBody) or asked.include_reasoning,
        )

    def _job(self, exchange: Exchange, fault: script.RequestFault | None) -> Job:
        job = Job(exchange, self._runner, fault, self._die)
        job.on_over = self._over
        return job

    def _chat_output(
        self, job: Job, asked: ChatBody, head: Head, call: Call | None, thinking: bool
    ) -> Stream | Collected:
        if asked.stream:
            exchange = job.exchange
            figures = self._figures(job, head, self._options.reasoning)
            return ChatStream(head, exchange.event, lambda: exchange.blocked, **figures, call_id=_call_id)
        auto = asked.tool_choice in (None, "auto")
        return Collected(lambda: self._runner.after(lambda: self._complete_chat(job, head, auto)))

    def _start(
        self,
        job: Job,
        asked: ChatBody | CompletionRequest,
        head: Head,
        whole: answers.SimulatedText,
        max_tokens: int | None,
    ) -> None:
        """Admit the request. Raises Refusal."""
        prompt = len(head.prompt_ids)
        limit = self._options.max_model_len
        if max_tokens is not None and max_tokens > limit:
            raise errors.parameter(
                f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output "
                "tokens.",
                "max_tokens",
                max_tokens,
            )
        stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        ending = Ending(
            limit=max(1, min(max_tokens or limit, limit - prompt)),
            stop=stop,
            include_stop=asked.include_stop_str_in_output,
            ignore_eos=asked.ignore_eos,
            min_tokens=asked.min_tokens,
        )
        self.check_state()
        if self._is_full():
            raise self._reject()
        self.jobs.add(job)
        self.idle.clear()
        if job.begin_fault():
            return
        if asked.stream:
            job.exchange.begin()
        self._metrics.limited(ending.limit)
        loop = asyncio.get_running_loop()
        generation = Generation(prompt, whole, ending, job)
        if self._options.max_num_queued_reqs is None:
            loop.call_soon(self._register, job, generation)
        else:
            loop.call_later(ADMISSION_WINDOW, self._register, job, generation)

    def _register(self, job: Job, generation: Generation) -> None:
        if job.over:
            return
        if self._is_full():
            job.fail(self._reject())
            return
        job.entry = self._runner.submit(generation)

    def _is_full(self) -> bool:
        most = self._options.max_num_queued_reqs
        engine = self._runner.engine
        return most is not None and len(engine.running) + len(engine.waiting) >= most

    def _reject(self) -> Refusal:
        self._metrics.rejected += 1
        return errors.busy()

    def _over(self, job: Job) -> None:
        self.jobs.discard(job)
        if not self.jobs:
            self.idle.set()
        self.aborted += job.aborted

    # --- from a generation to an answer ---

    def _complete_chat(self, job: Job, head: Head, auto: bool) -> None:
        got = job.output
        if job.over or not isinstance(got, Collected):
            return
        figures = self._figures(job, head, self._options.reasoning, whole=True)
        document = chat_document(
            head,
            got,
            usage=figures["final_usage"](),
            metrics=figures["metrics"](),
            call_id=_call_id(),
            auto=auto,
        )
        job.respond(HttpAnswer(200, msgspec.json.encode(document)))

    def _complete(self, job: Job, head: Head, echo: str) -> None:
        got = job.output
        if job.over or not isinstance(got, Collected):
            return
        figures = self._figures(job, head, False, whole=True)
        usage, metrics = figures["final_usage"](), figures["metrics"]()
        document = completion_document(head, got, usage=usage, metrics=metrics, echo=echo)
        job.respond(HttpAnswer(200, msgspec.json.encode(document)))

    def _figures(self, job: Job, head: Head, reasoning: bool, *, whole: bool = False) -> dict[str, Callable[[], Any]]:
        prompt = len(head.prompt_ids)

        def usage() -> dict[str, Any]:
            fields: dict[str, Any] = {
                "prompt_tokens": prompt,
                "total_tokens": prompt + job.tokens,
                "completion_tokens": job.tokens,
            }
            if head.id.startswith("chat"):
                fields["completion_tokens_details"] = {"reasoning_tokens": job.reasoning} if reasoning else None
            return fields

        def final_usage() -> dict[str, Any]:
            fields = {key: value for key, value in usage().items() if key != "completion_tokens_details"}
            details = self._prompt_details(head, whole)
            if details is not None or whole:
                fields["prompt_tokens_details"] = details
            if reasoning or whole:
                fields["completion_tokens_details"] = {"reasoning_tokens": job.reasoning} if reasoning else None
            return fields

        return {"usage": usage, "final_usage": final_usage, "metrics": lambda: self._timing(job, whole)}

    def _prompt_details(self, head: Head, whole: bool) -> dict[str, Any] | None:
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

    def _timing(self, job: Job, whole: bool) -> dict[str, Any] | None:
        """Return vLLM's per-request metrics, in ms."""
        entry = job.entry
        if not self._options.per_request_metrics or entry is None:
            return None
        generation = (job.last - job.first) * 1000
        inference = job.last - entry.scheduled
        fields: dict[str, Any] = {
            "time_to_first_token_ms": (job.first - entry.scheduled) * 1000,
            "generation_time_ms": generation,
            "queue_time_ms": (entry.scheduled - entry.arrived) * 1000,
            "mean_itl_ms": generation / (job.tokens - 1) if job.tokens > 1 else None,
            "tokens_per_second": job.tokens / inference if inference > 0 else None,
        }
        if whole:
            fields["speculative_decoding"] = None
            return fields
        return {key: value for key, value in fields.items() if value is not None}


def _thinking_off(asked: ChatBody | TokenizeChat) -> bool:
    wanted = (asked.chat_template_kwargs or {}).get("enable_thinking")
    effort = asked.reasoning_effort if isinstance(asked, ChatBody) else None
    return wanted is False or (wanted is None and effort == "none")


def _document(asked: ChatBody | CompletionRequest, question: str) -> str | None:
    """Return JSON for the response format. Raises Refusal for an invalid schema."""
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return answers.document(None, question)
    schema = (wanted.json_schema and wanted.json_schema.schema_) or {}
    if (bad := answers.invalid_type(schema)) is not None:
        raise Refusal(f"Grammar error: Invalid type: {bad}", inside=bool(asked.stream))
    return answers.document(schema, question)


def _completion_prompt(asked: CompletionRequest) -> str | list[int]:
    """Raises Refusal for several prompts and for unknown token ids."""
    prompt: Any = asked.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise Refusal("The simulated worker answers one prompt at a time.", param="prompt")
        prompt = prompt[0]
    if isinstance(prompt, list):
        try:
            vocabulary.decode(prompt)
        except ValueError as error:
            raise Refusal(str(error), inside=bool(asked.stream)) from error
    given: str | list[int] = prompt
    return given


def _call_id() -> str:
    return f"chatcmpl-tool-{secrets.token_hex(8)}"
