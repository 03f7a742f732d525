from __future__ import annotations

import asyncio

import httpx
import pytest

from vllama_pool.workers.agent.monitor import BUSY_INTERVAL, IDLE_INTERVAL, RETRY_INTERVAL, Monitor
from vllama_pool.workers.registry.record import LoadReport, WorkerState
from vllama_pool.workers.vllm.probe import Health
from vllama_pool.workers.vllm.server_identity import CONFIRM, SEVERAL_SERVERS

URL = "http://worker.test:8100"


class Server:
    """A server whose state the test sets."""

    def __init__(self) -> None:
        self.health = 200
        self.up = True
        self.running = 0
        self.tokens = 0
        self.started = 1.0
        self.asleep = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.up:
            raise httpx.ConnectError("refused", request=request)
        if request.url.path == "/health":
            return httpx.Response(self.health)
        awake = f'vllm:engine_sleep_state{{sleep_state="awake"}} {0 if self.asleep else 1}\n'
        return httpx.Response(
            200,
            text=f"{awake}vllm:num_requests_running {self.running}\nvllm:kv_cache_usage_perc 0.5\n"
            f"vllm:generation_tokens_total {self.tokens}\nprocess_start_time_seconds {self.started}\n",
        )


def monitored() -> tuple[Server, Monitor, list[LoadReport]]:
    server, reports = Server(), list[LoadReport]()
    client = httpx.AsyncClient(transport=httpx.MockTransport(server))
    return server, Monitor(client, reports.append), reports


async def test_a_poll_reports_figures_and_state() -> None:
    server, monitor, reports = monitored()
    monitor.set(WorkerState.READY)
    server.running = 3
    assert await monitor.poll(URL) is Health.OK
    assert (reports[-1].state, reports[-1].running, reports[-1].kv_usage) == (WorkerState.READY, 3, 0.5)


async def test_a_busy_server_is_polled_more_often() -> None:
    server, monitor, _ = monitored()
    await monitor.poll(URL)
    assert monitor.interval == IDLE_INTERVAL
    server.running = 1
    await monitor.poll(URL)
    assert monitor.interval == BUSY_INTERVAL


async def test_a_server_that_refuses_is_polled_no_more_often_than_one_that_answers() -> None:
    server, monitor, _ = monitored()
    server.up = False
    await monitor.poll(URL)
    assert monitor.interval == IDLE_INTERVAL


async def test_after_a_poll_that_timed_out_the_next_one_follows_at_once() -> None:
    async def silent(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.1)  # a client's time-out
        raise httpx.ReadTimeout("no answer", request=request)

    monitor = Monitor(httpx.AsyncClient(transport=httpx.MockTransport(silent)), lambda load: None, timeout=0.1)
    await monitor.poll(URL)
    assert monitor.interval == RETRY_INTERVAL


async def test_failed_polls_are_counted_until_the_next_success() -> None:
    server, monitor, _ = monitored()
    server.up = False
    assert [await monitor.poll(URL) for _ in range(2)] == [Health.STARTING, Health.STARTING]
    assert monitor.failed_polls == 2
    server.up = True
    await monitor.poll(URL)
    assert monitor.failed_polls == 0


async def test_a_dead_engine_is_noticed_although_metrics_answer() -> None:
    server, monitor, _ = monitored()
    server.health = 503
    assert await monitor.poll(URL) is Health.DEAD


async def test_a_server_that_is_down_reports_only_its_restarts() -> None:
    server, monitor, reports = monitored()
    server.running = 3
    await monitor.poll(URL)
    monitor.set(WorkerState.RESTARTING, "died", restarts=2)
    assert reports[-1] == LoadReport(state=WorkerState.RESTARTING, note="died", restarts=2)
    monitor.set(WorkerState.READY)
    assert reports[-1] == LoadReport(state=WorkerState.READY, restarts=2)


async def test_a_draining_server_keeps_its_figures() -> None:
    server, monitor, reports = monitored()
    server.running = 3
    await monitor.poll(URL)
    monitor.set(WorkerState.DRAINING)
    assert (reports[-1].state, reports[-1].running) == (WorkerState.DRAINING, 3)


async def test_a_server_is_sleeping_while_its_engine_sleeps_and_ready_again_afterwards() -> None:
    server, monitor, reports = monitored()
    monitor.set(WorkerState.READY)
    server.asleep = True
    assert await monitor.poll(URL) is Health.OK
    assert reports[-1].state is WorkerState.SLEEPING
    assert monitor.failed_polls == 0
    server.asleep = False
    await monitor.poll(URL)
    assert reports[-1].state is WorkerState.READY


@pytest.mark.parametrize(("asleep", "state"), [(False, WorkerState.READY), (True, WorkerState.SLEEPING)])
async def test_a_server_that_answers_again_is_ready_unless_its_engine_sleeps(asleep: bool, state: WorkerState) -> None:
    server, monitor, reports = monitored()
    monitor.set(WorkerState.RESTARTING)
    server.asleep = asleep
    await monitor.poll(URL)
    assert monitor.set_up()
    assert reports[-1].state is state
    assert not monitor.set_up()


async def test_a_draining_server_stays_draining_while_its_engine_sleeps() -> None:
    server, monitor, reports = monitored()
    monitor.set(WorkerState.DRAINING)
    server.asleep = True
    await monitor.poll(URL)
    assert reports[-1].state is WorkerState.DRAINING


async def test_a_restart_between_two_polls_is_noticed() -> None:
    server, monitor, _ = monitored()
    monitor.set(WorkerState.READY)
    for started in (1.0, 1.0, 2.0):
        server.started = started
        await monitor.poll(URL)
    assert not monitor.restarted
    for _ in range(CONFIRM):
        await monitor.poll(URL)
    assert monitor.restarted
    assert not monitor.several


async def test_several_servers_are_noted_and_have_no_speed() -> None:
    server, monitor, reports = monitored()
    monitor.set(WorkerState.READY)
    for poll in range(8):
        server.started, server.tokens = float(poll % 2 + 1), 1000 * poll
        await monitor.poll(URL)
    assert monitor.several
    assert (reports[-1].note, reports[-1].tokens_per_second) == (SEVERAL_SERVERS, 0)
    monitor.set(WorkerState.DRAINING)
    await monitor.poll(URL)
    assert reports[-1].note == ""


async def test_the_reason_of_a_failed_poll_is_kept() -> None:
    server, monitor, _ = monitored()
    server.health = 502
    await monitor.poll(URL)
    assert "HTTP 502" in monitor.problem
