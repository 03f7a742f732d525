"""One router process: its reports to the supervisor, and uvicorn's configuration."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.router.app import create_app
from vllama_pool.router.errors import STOPPING
from vllama_pool.router.process import LONGEST_IDLE, RouterServer, make_server
from vllama_pool.router.server.http_protocol import DrainingProtocol
from vllama_pool.workers.process.status import ChildStatus, StatusPipe, decode


class Process:
    """A server that was not started, and the supervisor's end of its status pipe."""

    def __init__(self, state_dir: Path, **fields: Any) -> None:
        self.read_fd, write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self._write_fd = write_fd
        settings = RouterSettings(registry=RegistrySettings(state_dir=state_dir), **fields)
        self.server: RouterServer = make_server(create_app(settings, RoutingTable()), settings, StatusPipe(write_fd))

    def statuses(self) -> list[ChildStatus | None]:
        return [decode(line) for line in os.read(self.read_fd, 1 << 16).splitlines()]

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self._write_fd)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    opened = Process(tmp_path)
    yield opened
    opened.close()


def test_a_signal_reports_draining_and_stops_the_server(process: Process) -> None:
    process.server.handle_exit(signal.SIGTERM, None)
    assert process.statuses() == [ChildStatus("draining")]
    assert process.server.should_exit


async def test_with_a_drain_delay_the_process_accepts_on_but_is_not_ready(tmp_path: Path) -> None:
    process = Process(tmp_path, drain_delay=0.3)
    server = process.server
    server.started = True
    server.handle_exit(signal.SIGTERM, None)
    assert process.statuses() == [ChildStatus("draining")]
    assert not await server.on_tick(1)
    assert server.config.http_protocol_class is DrainingProtocol
    await auntil(lambda: server.on_tick(1), 5, "the end of the delay")
    process.close()


async def test_a_second_signal_ends_the_drain_delay(tmp_path: Path) -> None:
    process = Process(tmp_path, drain_delay=3600)
    process.server.started = True
    process.server.handle_exit(signal.SIGTERM, None)
    assert not await process.server.on_tick(1)
    process.server.handle_exit(signal.SIGTERM, None)
    assert await process.server.on_tick(1)
    process.close()


async def test_at_the_end_of_the_grace_time_requests_in_progress_are_told_that_the_router_stops(
    process: Process,
) -> None:
    request = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    process.server.server_state.tasks.add(request)
    await asyncio.sleep(0)
    process.server.end_requests()
    with pytest.raises(asyncio.CancelledError, match=f"^{STOPPING}$"):
        await request


def test_a_second_ctrl_c_does_not_cut_off_running_requests(process: Process) -> None:
    process.server.handle_exit(signal.SIGINT, None)
    process.server.handle_exit(signal.SIGINT, None)
    assert process.server.should_exit
    assert not process.server.force_exit


def test_forwarding_headers_cannot_change_the_clients_address(process: Process) -> None:
    assert not process.server.config.proxy_headers


@pytest.mark.parametrize(("grace", "seconds"), [(30.0, 30), (0.2, 1)])
def test_running_requests_have_the_grace_period_but_at_least_a_second(
    tmp_path: Path, grace: float, seconds: int
) -> None:
    process = Process(tmp_path, grace=grace)
    assert process.server.config.timeout_graceful_shutdown == seconds
    process.close()


@pytest.mark.parametrize(("timeout", "seconds"), [(3600.0, 3600), (0.2, 1), (0, LONGEST_IDLE)])
def test_idle_connections_have_the_idle_timeout_but_at_least_a_second(
    tmp_path: Path, timeout: float, seconds: int
) -> None:
    process = Process(tmp_path, idle_timeout=timeout)
    assert process.server.config.timeout_keep_alive == seconds
    process.close()
