"""The guard with routers that hear each other, and workers whose agents report scripted ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from tests.support.balance import Clock, found
from tests.support.until import auntil
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import Poison
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.poison.guard import PoisonGuard
from vllama_pool.router.poison.messenger import Signer
from vllama_pool.workers.registry.client import RegistryUnavailable
from vllama_pool.workers.registry.record import EngineExit, LoadReport, WorkerState

A, B = (CrashId(name, 1, 1) for name in "ab")
SIGNER = Signer("fleet", b"secret", allow_unsigned=False)


class Chat(msgspec.Struct):
    prompt: str
    model: str = "m"


@dataclass
class Bus:
    """The registry of all routers of a test."""

    listeners: list[Callable[[bytes], None]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    trials: dict[str, str] = field(default_factory=dict)
    down: bool = False

    def _check(self) -> None:
        if self.down:
            raise RegistryUnavailable("down")

    async def publish_poison(self, envelope: bytes) -> None:
        self._check()
        for heard in self.listeners:
            heard(envelope)

    async def put_refusal(self, digest: str, envelope: bytes) -> None:
        self._check()
        self.stored[digest] = envelope

    async def drop_refusals(self, *digests: str) -> None:
        self._check()
        for digest in digests:
            self.stored.pop(digest, None)

    async def refusals(self) -> dict[str, bytes]:
        return self.stored

    async def begin_trial(self, worker_id: str, owner: str, seconds: float) -> bool:
        self._check()
        return self.trials.setdefault(worker_id, owner) == owner

    async def end_trial(self, worker_id: str, owner: str) -> None:
        if self.trials.get(worker_id) == owner:
            del self.trials[worker_id]


class Router:
    def __init__(self, bus: Bus, signer: Signer = SIGNER) -> None:
        self.clock = Clock()
        self.pool = Pool(self.clock)
        self.pool.put(*(found(name, load=LoadReport(exit=EngineExit())) for name in "abc"))
        self.guard = PoisonGuard(
            bus,
            signer,
            refuse_for=600,
            clock=self.clock,
            settle=0.01,
            report_timeout=0.0,
            second_timeout=0.0,
            explained=0.0,
        )
        bus.listeners.append(self.guard.heard)

    def ended(self, worker: str, cause: str, *, crashed: bool, number: int = 1) -> None:
        self.clock.now += 1
        exit = EngineExit(number=number, crashed=crashed, cause=cause)
        self.pool.report(worker, LoadReport(state=WorkerState.RESTARTING, exit=exit))

    async def lost(self, worker: str, prompt: str, met: Sequence[CrashId] = (), sent: float = 0.0) -> CrashId | None:
        known = self.pool.get(worker)
        assert known is not None
        return await self.guard.met_crash(known, sent, "chat", Chat(prompt), 10, met)

    def lost_begun(self, worker: str, prompt: str) -> None:
        known = self.pool.get(worker)
        assert known is not None
        self.guard.lost_begun(known, 0.0, "chat", Chat(prompt), 10)

    async def may_go_on(self, prompt: str, crashes: Sequence[CrashId]) -> bool:
        return await self.guard.may_meet_another(crashes, "chat", Chat(prompt), 10)

    async def ask(self, prompt: str) -> None:
        if self.guard.refused:
            await self.guard.check("chat", Chat(prompt), 10)


@pytest.fixture
def bus() -> Bus:
    return Bus()


async def settle() -> None:
    await asyncio.sleep(0.1)


async def crash_twice(router: Router) -> None:
    router.ended("a", "SIGSEGV", crashed=True)
    first = await router.lost("a", "poison")
    assert first == A
    router.ended("b", "SIGSEGV", crashed=True)
    await router.lost("b", "poison", [first])


async def test_a_request_of_two_crashes_is_refused_with_the_evidence_in_every_router(bus: Bus) -> None:
    first, second = Router(bus), Router(bus)
    with pytest.raises(Poison, match=r"a \(SIGSEGV, \d s ago\) and b \(SIGSEGV, 0 s ago\)"):
        await crash_twice(first)
    await settle()

    for router in (first, second):
        with pytest.raises(Poison) as refused:
            await router.ask("poison")
        assert refused.value.status == 422
        await router.ask("another")
    assert (first.guard.refusals, second.guard.refusals) == (2, 1)


async def test_a_refusal_ends_by_the_clock_of_each_router_and_leaves_the_registry(bus: Bus) -> None:
    router = Router(bus)
    with pytest.raises(Poison):
        await crash_twice(router)
    await settle()
    assert len(bus.stored) == 1

    router.clock.now += 601
    await router.ask("poison")
    await settle()

    assert router.guard.refused == {}
    assert bus.stored == {}


async def test_a_router_that_starts_later_refuses_too(bus: Bus) -> None:
    with pytest.raises(Poison):
        await crash_twice(Router(bus))
    await settle()
    late = Router(bus)
    await late.guard.catch_up()

    with pytest.raises(Poison):
        await late.ask("poison")


async def test_two_kills_with_a_common_prompt_are_no_evidence(bus: Bus) -> None:
    router = Router(bus)
    for worker in "ab":
        router.ended(worker, "SIGKILL", crashed=False)
        assert not await router.lost(worker, "common")
    await settle()

    await router.ask("common")
    assert router.guard.refused == {}


async def test_a_kill_and_a_crash_with_a_common_prompt_are_no_evidence(bus: Bus) -> None:
    router = Router(bus)
    router.ended("a", "SIGKILL", crashed=False)
    router.ended("b", "SIGSEGV", crashed=True)
    assert not await router.lost("a", "common")
    assert await router.lost("b", "common")
    await settle()

    assert router.guard.refused == {}


async def test_another_router_that_saw_a_second_common_request_prevents_the_refusal(bus: Bus) -> None:
    first, second = Router(bus), Router(bus)
    for worker in "ab":
        for router in (first, second):
            router.ended(worker, "SIGSEGV", crashed=True)
        assert await second.lost(worker, "innocent")
        if worker == "a":
            assert await first.lost("a", "poison")
    with pytest.raises(Poison, match="it is not sent to a third"):
        await first.lost("b", "poison", [A])
    await settle()

    assert (first.guard.refused, second.guard.refused) == ({}, {})


async def test_a_request_whose_two_crashes_another_one_explains_goes_on(bus: Bus) -> None:
    """It was tried on the second engine first, which had begun to answer when the poison reached it."""
    first, second = Router(bus), Router(bus)
    for router in (first, second):
        router.ended("a", "SIGSEGV", crashed=True)
    assert await first.lost("a", "poison") == A
    assert await second.lost("a", "innocent") == A
    await settle()
    known = second.pool.get("c")
    assert known is not None
    trial = await second.guard.begin_trial(known, "chat", Chat("innocent"), 10, lambda: None)
    assert trial is not None
    trial.on_begun()
    trial.end()

    for router in (first, second):
        router.ended("b", "SIGSEGV", crashed=True)
    with pytest.raises(Poison, match="it was the only request"):
        await first.lost("b", "poison", [A])
    assert await second.lost("b", "innocent", [A]) == B

    assert await second.may_go_on("innocent", [A, B])
    assert not await second.may_go_on("innocent", [CrashId("x", 1, 1), CrashId("y", 1, 1)])
    await second.ask("innocent")


async def test_a_request_that_kills_engines_after_their_answers_have_begun_is_refused(bus: Bus) -> None:
    router = Router(bus)
    router.ended("a", "SIGSEGV", crashed=True)
    assert await router.lost("a", "late") == A
    known = router.pool.get("b")
    assert known is not None
    trial = await router.guard.begin_trial(known, "chat", Chat("late"), 10, lambda: None)
    assert trial is not None
    trial.on_begun()
    trial.end()
    await settle()

    router.ended("b", "SIGSEGV", crashed=True)
    with pytest.raises(Poison, match="it was the only request"):
        await router.lost("b", "late", [A])


async def test_a_stream_of_two_crashes_is_refused_with_the_evidence_in_every_router(bus: Bus) -> None:
    first, second = Router(bus), Router(bus)
    first.ended("a", "SIGSEGV", crashed=True)
    first.lost_begun("a", "late")
    first.lost_begun("a", "innocent")
    await settle()
    assert (first.guard.refused, second.guard.suspects_begun) == ({}, True)

    first.ended("b", "SIGABRT", crashed=True)
    first.lost_begun("b", "late")
    await auntil(lambda: first.guard.refused and second.guard.refused)
    for router in (first, second):
        with pytest.raises(Poison, match=r"the only request that .* had in common: a \(SIGSEGV.*b \(SIGABRT"):
            await router.ask("late")
        await router.ask("innocent")
    assert not await first.may_go_on("late", [A, B])


async def test_a_stream_that_another_engine_completes_is_no_suspect_in_any_router(bus: Bus) -> None:
    first, second = Router(bus), Router(bus)
    first.ended("a", "SIGSEGV", crashed=True)
    first.lost_begun("a", "common")
    await auntil(lambda: second.guard.suspects_begun)
    second.guard.completed("chat", Chat("common"), 10)
    await auntil(lambda: not first.guard.suspects_begun and not second.guard.suspects_begun)

    first.ended("b", "SIGSEGV", crashed=True)
    first.lost_begun("b", "common")
    await auntil(lambda: second.guard.suspects_begun)
    await settle()
    assert (first.guard.refused, second.guard.refused) == ({}, {})


async def test_a_stream_is_refused_when_the_others_of_both_crashes_have_been_answered(bus: Bus) -> None:
    router = Router(bus)
    for worker in "ab":
        router.ended(worker, "SIGSEGV", crashed=True)
        for prompt in ("late", "innocent"):
            router.lost_begun(worker, prompt)
        await settle()
    assert router.guard.refused == {}
    router.guard.completed("chat", Chat("innocent"), 10)
    await auntil(lambda: router.guard.refused)
    with pytest.raises(Poison):
        await router.ask("late")
    await router.ask("innocent")


async def test_a_trial_that_is_cancelled_while_it_waits_frees_the_worker(bus: Bus) -> None:
    router = Router(bus)
    known = router.pool.get("a")
    assert known is not None
    bus.trials["a"] = "another router's"
    waiting = asyncio.create_task(router.guard.begin_trial(known, "chat", Chat("x"), 10, lambda: None))
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    del bus.trials["a"]
    trial = await asyncio.wait_for(router.guard.begin_trial(known, "chat", Chat("y"), 10, lambda: None), 30)
    assert trial is not None
    trial.end()


async def test_a_request_without_an_answer_is_suspected_before_streams(bus: Bus) -> None:
    router = Router(bus)
    router.ended("a", "SIGSEGV", crashed=True)
    router.lost_begun("a", "stream")
    assert await router.lost("a", "poison") == A
    router.ended("b", "SIGSEGV", crashed=True)
    router.lost_begun("b", "stream")
    with pytest.raises(Poison, match="it was the only request"):
        await router.lost("b", "poison", [A])
    await router.ask("stream")


async def test_killed_engines_accuse_no_stream(bus: Bus) -> None:
    router = Router(bus)
    for worker in "ab":
        router.ended(worker, "SIGKILL", crashed=False)
        router.lost_begun(worker, "stream")
    await settle()
    assert (router.guard.suspects_begun, router.guard.refused) == (False, {})


async def test_a_request_sent_after_the_end_was_known_belongs_to_the_next_engine(bus: Bus) -> None:
    router = Router(bus)
    router.ended("a", "SIGSEGV", crashed=True)

    assert not await router.lost("a", "x", sent=router.clock.now + 1)


async def test_a_worker_whose_end_nobody_reports_is_no_evidence(bus: Bus) -> None:
    router = Router(bus)
    router.pool.report("a", LoadReport(state=WorkerState.STOPPED))

    assert not await router.lost("a", "x")


async def test_forged_news_are_ignored(bus: Bus) -> None:
    other, router = Router(bus, Signer("fleet", b"forged", allow_unsigned=False)), Router(bus)
    with pytest.raises(Poison):
        await crash_twice(other)
    await settle()

    assert router.guard.refused == {}


async def test_suspects_are_tried_one_at_a_time_on_a_worker_over_all_routers(bus: Bus) -> None:
    first, second = Router(bus), Router(bus)
    worker = first.pool.get("a")
    assert worker is not None
    acquitted: list[str] = []
    trial = await first.guard.begin_trial(worker, "chat", Chat("x"), 10, lambda: acquitted.append("x"))
    assert trial is not None
    waiting = [
        asyncio.create_task(router.guard.begin_trial(worker, "chat", Chat("y"), 10, lambda: None))
        for router in (first, second)
    ]
    await settle()
    assert not any(task.done() for task in waiting)

    trial.begun = lambda: True
    done, _ = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert acquitted == ["x"]
    assert len(done) == 1
    begun = done.pop().result()
    assert begun is not None
    begun.end()
    others = [one for one in await asyncio.gather(*waiting) if one is not None and one is not begun]
    assert len(others) == 1
    others[0].end()


async def test_a_trial_does_not_begin_on_a_worker_that_died_meanwhile(bus: Bus) -> None:
    router = Router(bus)
    worker = router.pool.get("a")
    assert worker is not None
    trial = await router.guard.begin_trial(worker, "chat", Chat("x"), 10, lambda: None)
    assert trial is not None
    waiting = asyncio.create_task(router.guard.begin_trial(worker, "chat", Chat("y"), 10, lambda: None))
    await settle()
    router.ended("a", "SIGSEGV", crashed=True)
    trial.end()

    assert await asyncio.wait_for(waiting, 30) is None


async def test_without_a_registry_trials_exclude_each_other_within_the_router(bus: Bus) -> None:
    bus.down = True
    router = Router(bus)
    worker = router.pool.get("a")
    assert worker is not None

    trial = await router.guard.begin_trial(worker, "chat", Chat("x"), 10, lambda: None)

    assert trial is not None
    trial.end()
