"""Requests that generate text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from vllama_pool.workers.simulated import (
    errors,
    faults,
    messages_requests,
    prompts,
    responses_chat,
    responses_requests,
    template,
)
from vllama_pool.workers.simulated.chat import ChatStream, chat_response
from vllama_pool.workers.simulated.collector import Collector
from vllama_pool.workers.simulated.completions import CompletionStream, completion_response
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.engine_loop import EngineLoop
from vllama_pool.workers.simulated.errors import ApiError, HttpResponse
from vllama_pool.workers.simulated.generation import Generation
from vllama_pool.workers.simulated.generation_task import GenerationTask
from vllama_pool.workers.simulated.http_server import Exchange, Request
from vllama_pool.workers.simulated.jobs import Format, Job, chat_job, completion_job
from vllama_pool.workers.simulated.messages import MessagesStream, messages_response
from vllama_pool.workers.simulated.messages_requests import parse_messages
from vllama_pool.workers.simulated.metrics import SimulatedMetrics
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.requests import parse_chat, parse_completion
from vllama_pool.workers.simulated.responses import ResponsesStream, responses_response
from vllama_pool.workers.simulated.responses_requests import parse_responses
from vllama_pool.workers.simulated.transcription import parse_transcription, transcription_job

ADMISSION_WINDOW = 0.005
"""Seconds between vLLM's check of its queue limit and the request's registration.

Simultaneous requests all pass the check; the engine rejects the excess after the 200.
"""
CHAT = Format("chatcmpl-", ChatStream, chat_response)
COMPLETION = Format("cmpl-", CompletionStream, completion_response)
RESPONSES = Format("", ResponsesStream, responses_response, limit_name="max_output_tokens")
MESSAGES = Format("chatcmpl-", MessagesStream, messages_response, errors.anthropic)


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
        self._start(chat_job(body, self._options, CHAT, request.headers.get("x-request-id")), exchange, fault)

    def completion(self, request: Request, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        body = parse_completion(request.body, request.headers.get("content-type", ""), self._options.max_stop_strings)
        job = completion_job(body, self._options, COMPLETION, request.headers.get("x-request-id"))
        self._start(job, exchange, fault)

    def messages(self, request: Request, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        options = self._options
        body = parse_messages(request.body, request.headers.get("content-type", ""), options.max_stop_strings)
        with errors.shaped(errors.anthropic):
            chat = messages_requests.as_chat(body, one_system=template.refuses_later_systems(options.strict_template))
            self._start(chat_job(chat, options, MESSAGES, request.headers.get("x-request-id")), exchange, fault)

    def responses(self, request: Request, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        body = parse_responses(request.body, request.headers.get("content-type", ""))
        prompts.check_model(body.model, self._options)
        chat = responses_chat.as_chat(body, calls=self._options.tool_parser)
        job = chat_job(chat, self._options, RESPONSES, None, request=responses_requests.repeated(body))
        self._start(job, exchange, fault)

    def transcription(self, request: Request, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        body = parse_transcription(request.body, request.headers.get("content-type", ""))
        job = transcription_job(body, self._options, request.headers.get("x-request-id"))
        self._start(job, exchange, fault)

    def abort_all(self) -> None:
        self._engine_loop.engine.clear()
        for task in list(self.tasks):
            task.abort()
        self._engine_loop.flush()

    def check_available(self) -> None:
        if (error := self._unavailable()) is not None:
            raise error

    def _start(self, job: Job, exchange: Exchange, fault: faults.RequestFault | None) -> None:
        """Raises ApiError."""
        task = self._task(job, exchange, fault)
        if job.error is None:
            self.check_available()
            if self._is_full():
                raise self._reject()
        self.tasks.add(task)
        self.idle.clear()
        if task.inject_early():
            return
        if job.stream:
            task.begin()
        if job.error is not None:
            task.fail(job.error)
            return
        self._metrics.limited(job.endings[0].limit)
        loop = asyncio.get_running_loop()
        if self._options.max_num_queued_reqs is None:
            loop.call_soon(self._register, task, job)
        else:
            loop.call_later(ADMISSION_WINDOW, self._register, task, job)

    def _task(self, job: Job, exchange: Exchange, fault: faults.RequestFault | None) -> GenerationTask:
        counts = Counts(tuple(map(len, job.head.prompts)), job.head.choices)
        task = GenerationTask(exchange, self._engine_loop, counts, job.format.error, fault, self._die)
        task.on_finish = self._forget
        if job.stream:
            task.output = job.format.stream(job.head, counts, exchange)
        else:
            task.output = Collector(
                job.head.sequences,
                lambda: self._engine_loop.call_after_flush(lambda: self._complete(task, job)),
            )
        return task

    def _register(self, task: GenerationTask, job: Job) -> None:
        if task.finished:
            return
        if self._is_full():
            task.fail(self._reject())
            return
        for index, (text, ending) in enumerate(zip(job.texts, job.endings, strict=True)):
            generation = Generation(len(job.head.prompt(index)), text, ending, task.sequence(index))
            task.entries.append(self._engine_loop.submit(generation))

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

    def _complete(self, task: GenerationTask, job: Job) -> None:
        collected = task.output
        if task.finished or not isinstance(collected, Collector):
            return
        document = job.format.whole(job.head, task.counts, collected.sequences)
        task.respond(HttpResponse(200, msgspec.json.encode(document)))
