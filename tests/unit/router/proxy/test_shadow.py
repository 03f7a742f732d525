"""Copies of requests to shadow targets: which are sent, to whom, and that nothing else notices them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from tests.support.forwarding import CHAT, END, HI, SERVED, StepClock, ok, refused, shared_by_requests, status
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.upstream import FakeClient, FakeResponse, Hang, Script
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.admission.output_cap import OutputCap
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.shadow import ShadowCopy, Shadows
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.telemetry.decisions import Decision
from vllama_pool.router.telemetry.families import exposition
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.telemetry.shadow_metrics import ShadowMetrics
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerState

SHADE = ModelInfo(name="shade", context_length=2048, template="{{ messages }}")
HANGS = FakeResponse([HI, Hang()])


class Scene:
    """Entry m on worker a, with copies to worker b."""

    def __init__(
        self,
        *script: Any,
        slots: int = 8,
        processes: int = 1,
        models: dict[str, Any] | None = None,
        load: LoadReport | None = None,
        **shadow: Any,
    ) -> None:
        clock = Clock()
        self.pool = pool_of(clock, found("a", SERVED), found("b", SHADE, slots=slots, load=load))
        scripts: dict[str, Script] = {"a": [], "b": script}
        self.client = FakeClient(scripts)
        self.stalls = StallWatch()
        upstream = shared_by_requests(self.client, self.pool, self.stalls, StepClock(clock)).upstream
        entry = {"shadow": {"model": "shade", "share": 1.0, **shadow}}
        self.routes = ModelRoutes(routing_table(models={"m": entry, **(models or {})}), random.Random(1))
        self.metrics = ShadowMetrics()
        self.shadows = Shadows(upstream, lambda: self.routes, random.Random(1), self.metrics, processes)

    def begin(
        self, request_id: str = "id", asker: Asker | None = None, output: OutputCap | None = None, **fields: Any
    ) -> ShadowCopy | None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        request = CHAT.decode(json.dumps(body).encode())
        decision = Decision(RequestRecord(id=request_id), 0, 10)
        resolution = self.routes.resolve("m", self.pool)
        call = ForwardRequest(CHAT, request, resolution, decision, Grant(output=output), asker)
        return self.shadows.begin(call, request_id)

    def sent_body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.client.sent[-1][2])
        return body

    async def ended(self) -> None:
        await auntil(lambda: repr(self.shadows) == "<Shadows 0 copies in progress>")

    def counts(self) -> dict[str, float]:
        """Return the counters by name and last label."""
        return dict(self._counts())

    def _counts(self) -> Iterator[tuple[str, float]]:
        for line in exposition(self.metrics.families()).splitlines():
            if line.startswith("vllama_shadow") and "_bucket" not in line:
                name = line.removeprefix("vllama_shadow_").partition("{")[0]
                label = next((text for key in ("reason", "kind") if (text := _label(line, key))), "")
                yield f"{name} {label}".strip(), float(line.split()[-1])

    def assert_idle(self) -> None:
        assert self.pool.in_flight == 0
        assert all(exchange.released for exchange in self.client.exchanges)
        assert repr(self.stalls) == "<StallWatch 0 watched>"


def _label(line: str, key: str) -> str:
    return line.partition(f'{key}="')[2].partition('"')[0]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_copy_is_sent_to_the_target_and_its_answer_is_dropped_and_counted(stream: bool) -> None:
    scene = Scene(FakeResponse([HI, END]))
    assert scene.begin(stream=stream) is not None
    assert scene.client.sent == []  # the request itself goes first
    await scene.ended()
    assert scene.client.workers == ["b"]
    assert scene.sent_body()["model"] == "shade"
    counts = scene.counts()
    assert (counts["sent_total"], counts["tokens_total prompt"], counts["tokens_total completion"]) == (1, 1, 1)
    assert counts["request_seconds_count"] == 1
    assert "failed_total" not in counts
    scene.assert_idle()


async def test_a_failed_copy_is_counted_and_not_tried_again() -> None:
    for response in (status(500), status(400), refused(), FakeResponse([HI], 200)):
        scene = Scene(response)
        assert scene.begin() is not None
        await scene.ended()
        assert scene.counts()["failed_total"] == 1
        assert len(scene.client.sent) == 1
        scene.assert_idle()


async def test_a_copy_ends_when_the_client_of_its_request_leaves() -> None:
    scene = Scene(HANGS)
    copy = scene.begin()
    assert copy is not None
    await auntil(lambda: bool(scene.client.exchanges) and scene.client.exchanges[-1].played >= 1)
    copy.stop()
    copy.stop()
    await scene.ended()
    assert scene.counts()["stopped_total"] == 1
    scene.assert_idle()


async def test_a_copy_that_is_stopped_before_it_starts_leaves_nothing_behind() -> None:
    scene = Scene()
    copy = scene.begin()
    assert copy is not None
    copy.stop()
    await scene.ended()
    assert scene.client.sent == []
    scene.assert_idle()


async def test_copies_are_limited_per_process() -> None:
    scene = Scene(HANGS, HANGS, limit=3, processes=2)
    assert [scene.begin() is not None for _ in range(3)] == [True, True, False]
    assert scene.counts()["skipped_total limit"] == 1
    await scene.shadows.aclose()
    await scene.ended()
    assert scene.begin() is not None
    await scene.shadows.aclose()


async def test_copies_need_more_free_slots_than_copies_in_progress() -> None:
    scene = Scene(HANGS, HANGS, HANGS, slots=4, limit=100)
    started = 0
    while scene.begin() is not None:
        started += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert started == 2  # of four slots, two stay free for the target's own requests
    assert scene.counts()["skipped_total no free slot"] == 1
    await scene.shadows.aclose()


@pytest.mark.parametrize("load", [LoadReport(running=8), LoadReport(running=3, waiting=5)])
async def test_no_copy_is_sent_to_workers_without_a_free_slot(load: LoadReport) -> None:
    scene = Scene(load=load)
    assert scene.begin() is None
    assert scene.counts()["skipped_total no free slot"] == 1


async def test_no_copy_is_sent_without_a_healthy_worker() -> None:
    scene = Scene()
    scene.pool.mark_down("b")
    assert scene.begin() is None
    assert scene.counts()["skipped_total no worker"] == 1
    scene = Scene(load=LoadReport(state=WorkerState.DRAINING))
    assert scene.begin() is None
    assert scene.counts()["skipped_total no worker"] == 1
    scene = Scene(model="nobody")
    assert scene.begin() is None
    assert scene.counts()["skipped_total no worker"] == 1


async def test_no_copy_is_sent_to_a_model_that_cannot_do_what_the_request_needs() -> None:
    scene = Scene()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert scene.begin(tools=[tool]) is None
    assert scene.counts()["skipped_total unsuitable"] == 1


async def test_copies_follow_no_fallbacks() -> None:
    scene = Scene(model="gone", models={"gone": {"serve": "nobody", "fallback": ["shade"]}})
    assert scene.begin() is None
    assert scene.counts()["skipped_total no worker"] == 1


async def test_a_target_without_an_entry_gets_the_settings_of_the_requests_entry() -> None:
    scene = Scene(ok())
    scene.routes = ModelRoutes(
        routing_table(models={"m": {"system": "Be brief.", "shadow": {"model": "shade", "share": 1.0}}}),
        random.Random(1),
    )
    scene.begin()
    await scene.ended()
    assert [message["content"] for message in scene.sent_body()["messages"]] == ["Be brief.", "hi"]


async def test_a_target_with_an_entry_gets_that_entrys_settings() -> None:
    scene = Scene(ok(), model="other", models={"other": {"serve": "shade", "options": {"num_predict": 7}}})
    scene.begin()
    await scene.ended()
    assert (scene.sent_body()["model"], scene.sent_body()["max_tokens"]) == ("shade", 7)


async def test_a_copy_has_the_limit_of_the_requests_key_on_its_answer() -> None:
    scene = Scene(ok())
    scene.begin(output=OutputCap(5))
    await scene.ended()
    assert scene.sent_body()["max_tokens"] == 5


async def test_the_share_of_copied_requests_is_kept_and_the_draw_is_the_same_for_an_id() -> None:
    scene = Scene(share=0.25, limit=10**6, load=LoadReport(running=8))
    for number in range(4000):
        scene.begin(f"request {number}")
    assert scene.counts()["skipped_total no free slot"] == pytest.approx(1000, abs=100)
    again = Scene(share=0.25, limit=10**6, load=LoadReport(running=8))
    for number in range(4000):
        again.begin(f"request {number}")
    assert again.counts() == scene.counts()


async def test_all_or_no_requests_of_an_identity_are_copied_if_the_split_is_sticky() -> None:
    copied = set()
    for user in range(40):
        scene = Scene(share=0.5, load=LoadReport(running=8))
        table = {"m": {"split": "user", "shadow": {"model": "shade", "share": 0.5}}}
        scene.routes = ModelRoutes(routing_table(models=table), random.Random(1))
        for number in range(5):
            scene.begin(f"request {number}", Asker(None, {b"x-user-id": b"user %d" % user}))
        copied.add(scene.counts().get("skipped_total no free slot", 0))
    assert copied == {0, 5}


async def test_a_share_of_0_copies_nothing() -> None:
    scene = Scene(share=0.0)
    assert not any(scene.begin(f"request {number}") for number in range(100))
    assert scene.counts() == {}


async def test_the_copies_of_one_entry_count_on_their_worker_only() -> None:
    scene = Scene(HANGS)
    scene.begin()
    await auntil(lambda: bool(scene.client.exchanges))
    assert [worker_in(scene.pool, name).in_flight for name in ("a", "b")] == [0, 1]
    await scene.shadows.aclose()
    scene.assert_idle()


async def test_a_patterns_target_is_filled_with_what_its_stars_matched() -> None:
    scene = Scene(ok())
    table = {"m*": {"serve": "m", "shadow": {"model": "shade{1}", "share": 1.0}}}
    scene.routes = ModelRoutes(routing_table(models=table), random.Random(1))
    scene.begin()
    await scene.ended()
    assert scene.sent_body()["model"] == "shade"
