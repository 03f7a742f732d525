"""One attempt: a request sent to one worker, from the lease to the release of its exchange."""

from __future__ import annotations

import asyncio

from vllama_pool.router.balance.lease import ABANDONED, Completed, Errored, Outcome
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, ContextTooLong, Faulty, Lost, Refused, Unable
from vllama_pool.router.offload import INLINE_BYTES, offload
from vllama_pool.router.protocol.operation import (
    DirectResponse,
    Resumable,
    Timing,
    UpstreamRequest,
)
from vllama_pool.router.protocol.vllm.continuation import Continuation
from vllama_pool.router.protocol.vllm.errors import classify_stream_failure
from vllama_pool.router.protocol.vllm.token_log import KeepsLog, TokenLog
from vllama_pool.router.proxy.adaptation import adapted
from vllama_pool.router.proxy.collaborators import Upstream
from vllama_pool.router.proxy.headers import JSON, UpstreamHeaders, response_headers, upstream_headers
from vllama_pool.router.proxy.interrupted import Interrupted
from vllama_pool.router.proxy.preflight import Answer, Collector, run_preflight
from vllama_pool.router.proxy.relay import Ending, Relay, incomplete
from vllama_pool.router.proxy.requester import Requester
from vllama_pool.router.proxy.stalls import StallLimits
from vllama_pool.router.upstream.interface import Exchange, ResponseTimeout, Sink

MAX_INLINE_FINISH = 64 * 1024
"""Bytes of a response whose `finish` runs in the event loop, in some milliseconds."""


class Attempt:
    """Owns the lease and the exchange. `close` releases each once."""

    __slots__ = (
        "_exchange",
        "_outcome",
        "_relay",
        "_replica",
        "_request",
        "_timeouts",
        "_upstream",
        "answers_whole",
        "lease",
        "sent",
    )

    def __init__(self, request: Requester, replica: Replica, upstream: Upstream) -> None:
        self._request = request
        self._replica = replica
        self._upstream = upstream
        rule, timeouts = request.call.resolution.rule, upstream.timeouts
        own = None if rule is None else rule.entry.timeouts
        self._timeouts = timeouts.settings if own is None else timeouts.of(own)
        self._relay: Relay | None = None
        self._exchange: Exchange | None = None
        self._outcome: Outcome = ABANDONED
        self.answers_whole = False
        """The worker sends nothing until its answer is complete."""
        self.sent = 0.0
        worker, record = replica.worker, request.record
        record.attempts += 1
        record.worker, record.served = worker.id, replica.model.name
        self.lease = upstream.pool.lease(worker, record.served)
        upstream.stalls.watch(self)

    async def run(self) -> DirectResponse | None:
        """Prepare the request, send it, and relay the response.

        Returns a response that the preflight sufficed for, unsent. Raises AttemptFailed and TransportError, and
        Interrupted if another worker may continue the response.
        """
        call, model = self._request.call, self._replica.model
        defaults = call.resolution.defaults if call.grant.output is None else call.defaults
        prepare, request = call.operation.prepare, call.request
        if (untruncated := call.operation.untruncated) is not None:
            whole = untruncated(request, model, defaults)
            if whole is not request and self._request.has_larger(self._replica):
                request = whole
            del whole
        refusals: list[Refused | Faulty] = []
        try:
            if call.decision.size <= INLINE_BYTES:
                step = prepare(request, model, defaults)
            else:
                step = await offload(call.decision.size, prepare, request, model, defaults)
        except ContextTooLong as refusal:  # of an entry's context
            refusals.append(refusal.with_traceback(None))
            step = await adapted(self._request, self._replica, refusals)
        del request
        while True:
            try:
                if not isinstance(step, UpstreamRequest):
                    step = await run_preflight(step, self._ask, call.decision.size)
                    if isinstance(step, DirectResponse):
                        self._outcome = Completed(0)
                        return step
                kept = step.resume if call.request.stream else None
                relay = self._start_relay(step)
                del step  # it takes as much memory as the prompt
                ending = await relay.ended
                if ending is Ending.WHOLE:
                    ending = await self._respond_whole(relay)
                elif ending is Ending.INTERRUPTED:
                    assert kept is not None
                    raise self._interrupted(relay, kept)
                self._end(ending, relay)
                return None
            except Unable:
                if refusals:  # the question was about a request that the worker has refused
                    raise refusals[0] from None
                raise
            except (Refused, Faulty) as refusal:
                refusals.append(refusal.with_traceback(None))
            self._end_exchange()
            step = await adapted(self._request, self._replica, refusals)

    async def resume(self, continuation: Continuation, interrupted: Interrupted) -> None:
        """Continue another worker's answer. Raises AttemptFailed and TransportError before the first byte."""
        request = self._request
        step = await run_preflight(continuation.first_step(), self._ask, request.call.decision.size)
        translator, seam = interrupted.translator, continuation.seam
        assert seam is not None  # set by the last step
        before = seam.tokens
        interrupted.restart(continuation.dropped)
        if isinstance(step, DirectResponse):
            self._outcome = Completed(0)
            request.record.resumed += 1
            await interrupted.complete(step.body, request.record)
            return
        relay = self._relay = Relay(
            translator,
            request.client,
            interrupted.headers,
            self._begin_rest,
            stream=True,
            stage=seam,
        )
        relay.exchange = self._send(step.path, step.body, relay, upstream_headers(step.content_type))
        ending = await relay.ended
        self._end(ending, relay, before=before, goes_on=seam.cut_off)

    def close(self) -> None:
        """Release everything. Idempotent."""
        try:
            self._end_exchange()
        finally:
            self._upstream.stalls.unwatch(self)
            self.lease.release(self._outcome)

    def fail(self, failure: AttemptFailed) -> None:
        """Close a failed attempt."""
        self._outcome = Errored(failure)
        self.close()

    def client_gone(self) -> None:
        if self._relay is not None:
            self._relay.client_gone()

    def expire(self, text: str) -> bool:
        """End a response that has begun, and stop the worker, unless its end is written. Return False if it has not
        begun."""
        relay = self._relay
        if relay is not None and relay.at_end:
            return True
        if relay is None or not relay.expire(text):
            return False
        if self._exchange is not None:
            self._exchange.close()
        return True

    @property
    def replica(self) -> Replica:
        return self._replica

    @property
    def owned(self) -> bool:
        """False if its request has forgotten to close it."""
        return self._request.owns(self)

    # for the stall watch

    @property
    def last_heard(self) -> float | None:
        exchange = self._exchange
        if exchange is None or (self._relay is not None and self._relay.waits_for_client):
            return None
        return exchange.last_heard

    @property
    def progress(self) -> int:
        return 0 if self._relay is None else self._relay.translator.progress

    @property
    def begun(self) -> bool:
        return self._relay is not None and self._relay.translator.begun

    @property
    def limits(self) -> StallLimits:
        return self._timeouts.stalls

    @property
    def worker_unresponsive(self) -> bool:
        return self._replica.worker.unresponsive

    def abort(self, text: str) -> None:
        if self._exchange is not None:
            self._exchange.fail(ResponseTimeout(text))

    # internal

    def _begin_rest(self) -> None:
        """The first byte of another worker's answer goes on."""
        self._request.record.resumed += 1
        self.lease.record_first_content()

    async def _ask(self, path: str, body: bytes) -> Answer:
        collector = Collector()
        try:
            self._send(path, body, collector, upstream_headers(JSON))
            return await collector.answer
        finally:
            self._end_exchange()

    def _send(self, path: str, body: bytes, sink: Sink, headers: UpstreamHeaders) -> Exchange:
        upstream = self._upstream
        self._exchange = exchange = upstream.client.send(
            self._replica.worker.endpoint,
            "POST",
            path,
            headers=headers,
            request_id=self._request.record.id,
            body=body,
            sink=sink,
            connect_timeout=self._timeouts.connect,
        )
        self.sent = exchange.last_heard
        return exchange

    def _start_relay(self, step: UpstreamRequest) -> Relay:
        """Send the request. Return the relay of its response to the client."""
        owner, upstream = self._request, self._upstream
        operation, request = owner.call.operation, owner.call.request
        timing = Timing(owner.call.decision.arrived, upstream.clock.monotonic_ns())
        translator = (step.translator or operation.translator)(request, timing, upstream.clock)
        headers = response_headers(operation.content_type(request))
        stream = request.stream
        log = stage = None
        if stream and step.resume is not None:
            if isinstance(translator, KeepsLog):
                log = translator.log
            else:
                log = stage = TokenLog()
        self.answers_whole = step.whole
        relay = self._relay = Relay(
            translator,
            owner.client,
            headers,
            owner.begin_response,
            stream=stream,
            stage=stage,
            log=log,
        )
        relay.exchange = self._send(step.path, step.body, relay, upstream_headers(step.content_type))
        return relay

    async def _respond_whole(self, relay: Relay) -> Ending:
        """Finish the answer and write it. Raises AttemptFailed if it is not whole."""
        request, translator = self._request, relay.translator
        # Finishing a large response takes long enough to stall other streams.
        inline = relay.size <= MAX_INLINE_FINISH
        body = translator.finish() if inline else await asyncio.to_thread(translator.finish)
        if translator.failure is not None:
            raise classify_stream_failure(translator.failure)
        if not translator.done:
            raise incomplete()
        request.begin_response()
        request.on_answer()
        client = request.client
        client.start(200, (*relay.headers, (b"content-length", b"%d" % len(body))))
        if client.write(body, last=True):
            return Ending.COMPLETE
        try:
            await client.drained()
        except TimeoutError:
            return Ending.CLIENT_STALLED
        return Ending.CLIENT_GONE if request.client_left else Ending.COMPLETE

    def _interrupted(self, relay: Relay, kept: Resumable) -> Interrupted:
        """End the exchange. Return what another worker needs to continue the answer."""
        translator, log = relay.translator, relay.log
        assert log is not None
        failure = translator.failure
        cause = classify_stream_failure(failure) if failure is not None else Lost("lost in mid-stream")
        interrupted = Interrupted(translator, relay.headers, self._request.client, log, kept, relay.loss, cause)
        self._end_relay(relay)
        return interrupted

    def _end(self, ending: Ending, relay: Relay, *, before: int = 0, goes_on: bool = False) -> None:
        """Note the ending and its effect on the worker.

        `before`: tokens that another worker generated. `goes_on`: the worker does, after a complete answer.
        """
        self._request.record.outcome = str(ending)
        translator = relay.translator
        tokens = self._end_relay(relay)
        match ending:
            case Ending.COMPLETE:
                self._outcome = Completed(max(0, tokens - before))
                if self._exchange is not None and not (translator.cut_off or goes_on):
                    self._exchange.finish()
                    self._exchange = None
            case Ending.LOST:
                self._outcome = Errored(Lost("lost in mid-stream"))
            case Ending.FAILED:
                failure = translator.failure
                self._outcome = Errored(classify_stream_failure(failure) if failure else Lost("failed in mid-stream"))

    def _end_exchange(self) -> None:
        """Close the exchange, and record the tokens of its response. Idempotent."""
        if self._relay is not None:
            self._end_relay(self._relay)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _end_relay(self, relay: Relay) -> int:
        """Record the response's tokens, and return how many were generated."""
        self._relay = None
        relay.stop()
        record, usage = self._request.record, relay.translator.usage
        if self._request.waiting:
            record.discarded_tokens += usage.completion_tokens
        else:
            record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
            record.done_reason = usage.done_reason
        return usage.completion_tokens
