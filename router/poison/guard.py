"""Refuses requests that crash engines: the poison guard of one router process.

A request is poison if two engines died by themselves with it in flight, and it is the only one that they had in common.
Agents report how engines ended; routers tell each other through the registry which requests a crashed engine had. On
the way of a request that fails nowhere, only `refused` is looked at, which is nearly always empty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import Poison
from vllama_pool.router.offload import offload
from vllama_pool.router.poison.byte_budget import ByteBudget
from vllama_pool.router.poison.digest import digest_of
from vllama_pool.router.poison.evidence import CrashId, Evidence
from vllama_pool.router.poison.messenger import Messenger, NewsStore, Signer
from vllama_pool.router.poison.news import CrashNews, News, Refused
from vllama_pool.router.poison.refusals import Refusal, Refusals
from vllama_pool.router.poison.trials import Trial, Trials
from vllama_pool.workers.registry.record import EngineExit, WorkerState

REPORT_TIMEOUT = 0.5
"""Seconds to wait for the agent's report on an engine that a connection was lost to. It usually takes 10 to 200 ms."""
SECOND_TIMEOUT = 3.0
"""Seconds to wait after the second such connection of a request."""
EXPLAINED = 2.0
"""Seconds to wait after the second crash of a request for the conviction of another one."""
POLL = 0.01
"""Seconds."""
MAX_KEPT = 64 << 20
"""Bytes of bodies whose requests are kept until their answers end."""
SETTLE = 0.15
"""Seconds from a crash until all routers have reported their requests."""


class PoisonGuard:
    def __init__(
        self,
        store: NewsStore,
        signer: Signer,
        *,
        refuse_for: float,
        clock: Callable[[], float] = time.monotonic,
        settle: float = SETTLE,
        report_timeout: float = REPORT_TIMEOUT,
        second_timeout: float = SECOND_TIMEOUT,
        explained: float = EXPLAINED,
    ) -> None:
        """`refuse_for`: seconds. `clock`: that of the pool."""
        self._refusals = Refusals(clock)
        self.refused: Mapping[str, Refusal] = self._refusals.by_digest
        self.kept = ByteBudget(MAX_KEPT)
        """For large requests that are being answered."""
        self.suspects_begun = False
        """An answer that had begun may have crashed an engine: tell `completed` of requests."""
        self._messenger = Messenger(store, signer)
        self._refuse_for = refuse_for
        self._clock = clock
        self._settle = settle
        self._timeouts = (report_timeout, second_timeout)
        self._explained = explained
        self._evidence = Evidence(refuse_for)
        self._unsent: dict[CrashId, tuple[str, set[str], set[str]]] = {}
        """Cause, digests, and those of begun answers, that other routers have not been told."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._judging: asyncio.Task[None] | None = None
        self._unjudged = False
        self._trials = Trials(store, self._start)

    def __repr__(self) -> str:
        return f"<PoisonGuard {len(self._evidence)} crashes, {len(self.refused)} refused>"

    @property
    def refusals(self) -> int:
        """Refused requests so far."""
        return self._refusals.count

    # --- requests ---

    async def check(self, operation: str, request: Any, size: int) -> None:
        """Call if `refused` is not empty. `size`: bytes of the body. Raises Poison."""
        self._expire()
        if self.refused:
            self._refusals.raise_if_refused(await offload(size, digest_of, operation, request))

    async def met_crash(
        self, worker: Worker, sent: float, operation: str, request: Any, size: int, met: Sequence[CrashId]
    ) -> CrashId | None:
        """Note a request whose connection to the worker was lost. Return the crash if the engine died by itself.

        `sent`: on the pool's clock. `met`: crashes that the request has met before. Waits for the agent's report.
        Raises Poison if this is the second one and no other request explains it: it is not sent to a third engine.
        """
        exit = await self._exit_of(worker, sent, self._timeouts[1 if met else 0])
        if exit is None or not exit.crashed:
            return None
        digest = await offload(size, digest_of, operation, request)
        crash = CrashId(worker.id, worker.record.generation, exit.number)
        self._accuse(digest, crash, exit.cause)
        judging = self._judge_later()
        if met:
            await asyncio.shield(judging)
            self._refusals.raise_if_refused(digest)
            if not await self._are_explained((*met, crash)):
                await self._accuse_again(digest, met, exit.cause)
                self._refusals.raise_if_refused(digest)
                self._refusals.count += 1
                raise Poison(
                    "the engines of two workers crashed while they worked on this request, so it is not sent to a third"
                )
        return crash

    def lost_begun(self, worker: Worker, sent: float, operation: str, request: Any, size: int) -> None:
        """Note a request whose worker was lost after its answer had begun. `sent`: on the pool's clock."""
        self._start(self._note_begun(worker, sent, operation, request, size))

    async def _note_begun(self, worker: Worker, sent: float, operation: str, request: Any, size: int) -> None:
        exit = await self._exit_of(worker, sent, self._timeouts[1])
        if exit is None or not exit.crashed:
            return
        digest = await offload(size, digest_of, operation, request)
        self._accuse(digest, CrashId(worker.id, worker.record.generation, exit.number), exit.cause, begun=True)
        self._judge_later()

    def completed(self, operation: str, request: Any, size: int) -> None:
        """Note a request that an engine has answered. Call if `suspects_begun`."""
        self._start(self._clear(operation, request, size))

    async def _clear(self, operation: str, request: Any, size: int) -> None:
        digest = await offload(size, digest_of, operation, request)
        if digest and self._evidence.completed(digest):
            for _, digests, begun in self._unsent.values():
                digests.discard(digest)
                begun.discard(digest)
            self._judge_later()
            await self._messenger.publish(News(completed=(digest,)))
        self.suspects_begun = self._evidence.has_begun(self._clock())

    async def crash_of(self, worker: Worker, sent: float, *, met: bool) -> CrashId | None:
        """Return the crash if the engine that was running at `sent` died by itself. Waits for the agent's report.

        `met`: it would not be the request's first one.
        """
        exit = await self._exit_of(worker, sent, self._timeouts[1 if met else 0])
        return CrashId(worker.id, worker.record.generation, exit.number) if exit is not None and exit.crashed else None

    async def may_meet_another(self, crashes: Sequence[CrashId], operation: str, request: Any, size: int) -> bool:
        """False if the request, whose answer has begun, met two crashes that no other request explains."""
        if len(crashes) < 2:
            return True
        digest = await offload(size, digest_of, operation, request)
        return await self._are_explained(crashes) and digest not in self.refused

    async def begin_trial(
        self, worker: Worker, operation: str, request: Any, size: int, acquitted: Callable[[], None]
    ) -> Trial | None:
        """Wait until the worker has no other request of a crash. Return None if the worker is gone by then.

        `acquitted` is called when the worker begins to answer.
        """
        digest = await offload(size, digest_of, operation, request)
        trial = await self._trials.begin(worker)
        if trial is not None:
            trial.on_begun = lambda: self._acquit(digest, acquitted)
        return trial

    async def _exit_of(self, worker: Worker, sent: float, timeout: float) -> EngineExit | None:
        """Return the end of the engine that was running at `sent`, if its agent reports one in time."""
        deadline = self._clock() + timeout
        while worker.last_report.exit is not None and worker.last_report.state is not WorkerState.DRAINING:
            if worker.exit_seen > sent:
                return worker.last_report.exit
            if self._clock() >= deadline:
                break
            await asyncio.sleep(POLL)
        return None

    def listed(self) -> list[tuple[str, str, float]]:
        """Return digest, evidence and remaining seconds of each refused request."""
        self._expire()
        return self._refusals.listed()

    # --- judging ---

    def _accuse(self, digest: str, crash: CrashId, cause: str, *, begun: bool = False) -> None:
        if not digest:
            return
        _, unanswered, answers = self._unsent.setdefault(crash, (cause, set(), set()))
        if begun:
            self.suspects_begun = True
            self._evidence.add(crash, cause, (), self._clock(), begun=(digest,))
            answers.add(digest)
        else:
            self._evidence.add(crash, cause, (digest,), self._clock())
            unanswered.add(digest)

    async def _accuse_again(self, digest: str, crashes: Sequence[CrashId], cause: str) -> None:
        """The engine that began to answer the request, and so cleared it, has crashed too."""
        cleared = [crash for crash in crashes if not self._evidence.knows(crash, digest)]
        for crash in cleared:
            self._accuse(digest, crash, cause)
        if cleared:
            await asyncio.shield(self._judge_later())

    async def _are_explained(self, crashes: Sequence[CrashId]) -> bool:
        """Wait until refused requests explain all of the crashes but one. Return False if they do not."""
        deadline = self._clock() + self._explained
        while self._evidence.unexplained(crashes, self.refused.keys()) > 1:
            if self._clock() >= deadline:
                return False
            await asyncio.sleep(POLL)
        return True

    def _acquit(self, digest: str, acquitted: Callable[[], None]) -> None:
        acquitted()
        if not digest:
            return
        self._evidence.answered(digest)
        for _, digests, _ in self._unsent.values():
            digests.discard(digest)
        self.suspects_begun = self._evidence.has_begun(self._clock())
        self._start(self._messenger.publish(News(answered=(digest,))))

    def _judge_later(self) -> asyncio.Task[None]:
        """Judge what is known now when the other routers had time to add what they know."""
        self._unjudged = True
        if self._judging is None:
            self._judging = self._start(self._tell_and_judge())
        return self._judging

    async def _tell_and_judge(self) -> None:
        try:
            while self._unjudged:
                self._unjudged = False
                await asyncio.sleep(self._settle / 3)  # for the other requests of this router
                await self._tell()
                await asyncio.sleep(self._settle)
            self._judge()
        finally:
            self._judging = None

    async def _tell(self) -> None:
        unsent, self._unsent = self._unsent, {}
        crashes = tuple(
            CrashNews(
                worker=crash.worker,
                generation=crash.generation,
                number=crash.number,
                cause=cause,
                digests=tuple(sorted(digests)),
                begun=tuple(sorted(begun)),
            )
            for crash, (cause, digests, begun) in unsent.items()
            if digests or begun
        )
        if crashes:
            await self._messenger.publish(News(crashes=crashes))

    def _judge(self) -> None:
        now = self._clock()
        for culprit in self._evidence.culprits(now):
            if culprit.digest not in self.refused:
                where = self._evidence.describe(culprit, now)
                text = f"it was the only request that the crashed engines of two workers had in common: {where}"
                refused = Refused(digest=culprit.digest, evidence=text, seconds=self._refuse_for)
                self._refuse(refused)
                self._start(self._messenger.publish_refusal(refused))

    def _refuse(self, refused: Refused) -> None:
        self._expire()
        self._refusals.add(refused)

    def _expire(self) -> None:
        expired = self._refusals.expire()
        if expired:
            self._start(self._messenger.drop_refusals(expired))

    # --- other routers ---

    def heard(self, envelope: bytes) -> None:
        """Another router's news, or this one's own."""
        self._note(self._messenger.read(envelope))

    def _note(self, news: News) -> None:
        now = self._clock()
        for crash in news.crashes:
            found = CrashId(crash.worker, crash.generation, crash.number)
            self._evidence.add(found, crash.cause, crash.digests, now, begun=crash.begun)
        for digest in news.answered:
            self._evidence.answered(digest)
        for digest in news.completed:
            self._evidence.completed(digest)
        self.suspects_begun = self._evidence.has_begun(now)
        for refused in news.refused:
            self._refuse(refused)
        if news.crashes:
            self._judge_later()

    async def catch_up(self) -> None:
        """Read what was refused before this router listened. Raises RegistryUnavailable."""
        for news in await self._messenger.kept():
            self._note(news)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
