"""Sends canaries: requests for one token to workers from which no token has come for a while.

A worker that answers its health checks but generates nothing is found by these alone. Canaries use the request path's
client and leases, and appear in no log and in no metric of clients' requests.
"""

from __future__ import annotations

import asyncio
import random

import msgspec

from vllama_pool.router.balance.canary import Need, Question, is_due, question_for
from vllama_pool.router.balance.lease import ABANDONED, Completed, Errored, Lease, Outcome
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import AttemptFailed, Unavailable
from vllama_pool.router.protocol.vllm.whole_answer import NOT_AN_ANSWER, is_answer, read_choices, read_list
from vllama_pool.router.proxy.collaborators import Upstream
from vllama_pool.router.proxy.headers import upstream_headers
from vllama_pool.router.proxy.preflight import Answer, Collector
from vllama_pool.router.proxy.worker_errors import classify_response, transport_failure
from vllama_pool.router.telemetry.canary_metrics import CanaryMetrics
from vllama_pool.router.upstream.interface import TransportError

TICK = 0.5
"""Seconds between two looks at the workers."""
MAX_TIMEOUT = 20.0
"""Seconds in which the token must come: one step of the engine, and the prefills ahead of it."""
ASKED_FOR = 2.0
"""Intervals for which a question for readiness is recent."""
JITTER = 0.2
"""Of the interval, so that several routers do not ask at once."""
MAX_AT_ONCE = 8
REQUEST_ID = "canary"
SILENT = "it answers its health checks, but generates nothing"

_encode = msgspec.json.encode


class Canaries:
    """One per router process. `run` does nothing if `interval` is 0."""

    def __init__(self, upstream: Upstream, rng: random.Random, metrics: CanaryMetrics, interval: float) -> None:
        """`interval`: seconds without a token after which a worker is in doubt; 0 for no canaries."""
        self._upstream = upstream
        self._rng = rng
        self._metrics = metrics
        self._interval = interval
        self._timeout = min(interval / 2, MAX_TIMEOUT)
        self._asked_at = float("-inf")
        self._latest: dict[str, float] = {}  # by worker id: the latest canary, or the first sight
        self._running: set[str] = set()
        self.leases: set[Lease] = set()
        """Of the canaries in progress."""

    def __repr__(self) -> str:
        return f"<Canaries every {self._interval:g} s, {len(self._running)} running>"

    def asked(self, now: float) -> None:
        """Somebody asks for `/readyz`."""
        self._asked_at = now

    async def run(self) -> None:
        if self._interval <= 0:
            return
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = self._now()
                for worker, question in self._due(now):
                    self._latest[worker.id] = now + self._rng.uniform(0, JITTER * self._interval)
                    self._running.add(worker.id)
                    tasks.create_task(self._check(worker, question), name=f"canary to {worker.id}")
                await asyncio.sleep(min(TICK, self._interval / 4))

    def _due(self, now: float) -> list[tuple[Worker, Question]]:
        need = Need(self._interval, now - self._asked_at < ASKED_FOR * self._interval)
        workers = list(self._upstream.pool)
        self._latest = {worker.id: self._latest.get(worker.id, now) for worker in workers}
        found: list[tuple[Worker, Question]] = []
        for worker in workers:
            if worker.id in self._running or len(self._running) + len(found) >= MAX_AT_ONCE:
                continue
            question = question_for(worker)
            if question is not None and is_due(worker, need, self._latest[worker.id], now):
                found.append((worker, question))
        return found

    async def _check(self, worker: Worker, question: Question) -> None:
        sent = self._now()
        lease = self._upstream.pool.lease(worker, question.model)
        self.leases.add(lease)
        outcome: Outcome = ABANDONED
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._ask(worker, question)
            if answer.status == 200 and is_answer(read_list if question.embeds else read_choices, answer.body):
                lease.record_first_content()
                outcome = Completed(1)
                self._metrics.ended("answered")
            else:
                outcome = Errored(_failure(answer))
                self._metrics.ended("failed")
        except TransportError as error:
            outcome = Errored(transport_failure(error))
            self._metrics.ended("failed")
        except TimeoutError:
            if worker.answered_at < sent:
                worker.mark_silent(SILENT, self._now())
                self._metrics.ended("silent")
        finally:
            self._running.discard(worker.id)
            self.leases.discard(lease)
            lease.release(outcome)

    async def _ask(self, worker: Worker, question: Question) -> Answer:
        """Raises TransportError."""
        path, body = _request(question)
        collector = Collector()
        exchange = self._upstream.client.send(
            worker.endpoint,
            "POST",
            path,
            headers=upstream_headers("application/json"),
            request_id=REQUEST_ID,
            body=body,
            sink=collector,
            connect_timeout=self._upstream.timeouts.settings.connect,
        )
        try:
            return await collector.answer
        finally:
            exchange.close()

    def _now(self) -> float:
        return self._upstream.clock.monotonic_ns() / 1e9


def _failure(answer: Answer) -> AttemptFailed:
    if answer.status == 200:
        return Unavailable(NOT_AN_ANSWER.text, status=502)
    return classify_response(answer.status, answer.headers, answer.body)


def _request(question: Question) -> tuple[str, bytes]:
    """Return the path and the body."""
    if question.embeds:
        return "/v1/embeddings", _encode({"model": question.model, "input": "1"})
    return "/v1/completions", _encode({"model": question.model, "prompt": "1", "max_tokens": 1, "temperature": 0})
