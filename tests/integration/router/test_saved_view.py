"""A router that starts while its registry is away serves the workers that it saved, and joins later."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.registry.router_views import FLEET, router_view, workers
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.router.discovery.membership import Liveness
from vllama_pool.router.discovery.saved_view import SavedView
from vllama_pool.workers.registry.view_file import ViewFile


def saved(folder: Path) -> SavedView:
    return SavedView(ViewFile(folder, FLEET), interval=0.05)


async def test_a_start_without_the_registry_uses_the_saved_workers_that_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_ports()
    url = f"redis://127.0.0.1:{port}"
    async with workers(url, "a", "b", "dead") as [a, b, dead]:
        async with running_valkey(tmp_path / "s", port=port), router_view(url, saved=saved(tmp_path)) as view:
            await auntil(lambda: view.pool.all_usable == {"a", "b", "dead"}, 10)
            await auntil(lambda: _count(tmp_path) == 3, 5)
        await dead.die()
        caplog.clear()
        async with router_view(url, saved=saved(tmp_path)) as view:
            await auntil(lambda: view.pool.all_usable == {"a", "b"}, 5, "the live ones to serve")
            assert view.discovery.known
            assert not view.discovery.polled
            assert "workers are as this machine saved them" in view.discovery.registry_problem
            assert view.discovery.liveness("dead") is Liveness.DOWN
            assert caplog.text.count("they get requests once they answer") == 1
            async with running_valkey(tmp_path / "s2", port=port):
                await auntil(lambda: view.discovery.liveness("a") is Liveness.ALIVE, 10, "it to join")
                await auntil(lambda: view.discovery.liveness("b") is Liveness.ALIVE, 10)
                assert view.discovery.registry_problem == ""
                assert view.pool.all_usable == {"a", "b"}
                assert view.pool.removed_at == {}
                await a.leave()
                await auntil(lambda: view.pool.all_usable == {"b"}, 5)
                assert not b.fenced


async def test_a_first_start_waits_for_a_registry_that_answered_a_sibling_and_a_restart_does_not(
    tmp_path: Path,
) -> None:
    """The view of a sibling is not one of an earlier run. A later replacement of a process needs it."""
    port = free_ports()
    url = f"redis://127.0.0.1:{port}"
    file = ViewFile(tmp_path, FLEET)
    async with workers(url, "a"):
        first = SavedView(file, run="this one", interval=0.05)
        async with running_valkey(tmp_path / "s", port=port), router_view(url, saved=first) as view:
            await auntil(lambda: view.pool.all_usable == {"a"}, 10)
            await auntil(lambda: _count(tmp_path) == 1, 5)
        sibling = SavedView(file, run="this one", writes=False)
        async with router_view(url, saved=sibling) as view:
            await auntil(lambda: view.discovery.registry_problem, 10)
            assert not await view.discovery.wait_first(1.0)
            assert list(view.pool) == []
        for later in (SavedView(file, run="this one", writes=False, restarted=True), SavedView(file, run="another")):
            async with router_view(url, saved=later) as view:
                await auntil(lambda view=view: view.pool.all_usable == {"a"}, 10)


async def test_only_the_process_that_writes_saves_the_view(tmp_path: Path) -> None:
    port = free_ports()
    url = f"redis://127.0.0.1:{port}"
    file = ViewFile(tmp_path, FLEET)
    async with running_valkey(tmp_path / "s", port=port), workers(url, "a", "b") as [a, _]:
        reader = SavedView(file, run="r", writes=False, interval=0.01)
        async with router_view(url, saved=reader) as view:
            await auntil(lambda: view.pool.all_usable == {"a", "b"}, 10)
            writer = SavedView(file, run="r", interval=0.01)
            async with router_view(url, saved=writer):
                await auntil(lambda: _count(tmp_path) == 2, 10)
            saved = file.path.stat().st_mtime_ns
            await a.leave()
            await auntil(lambda: view.pool.all_usable == {"b"}, 5)
            await auntil(lambda: view.discovery.registry_up, 5)
            assert file.path.stat().st_mtime_ns == saved


async def test_saved_workers_of_another_secret_are_never_contacted(tmp_path: Path) -> None:
    port = free_ports()
    url = f"redis://127.0.0.1:{port}"
    async with workers(url, "a") as [a]:
        async with running_valkey(tmp_path / "s", port=port), router_view(url, saved=saved(tmp_path)) as view:
            await auntil(lambda: view.pool.all_usable == {"a"}, 10)
            await auntil(lambda: _count(tmp_path) == 1, 5)
        before = a.contacts
        async with router_view(url, saved=saved(tmp_path), secret=b"another secret") as view:
            await auntil(lambda: view.record_checker.refusals == 1, 5)
            assert not view.discovery.known
            assert list(view.pool) == []
            assert a.contacts == before


async def test_a_full_disk_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit of this process on the size of files stands for the full disk."""
    port = free_ports()
    url = f"redis://127.0.0.1:{port}"
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with running_valkey(tmp_path / "s", port=port), workers(url, "a", "b") as [a, _]:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
            async with router_view(url, saved=saved(tmp_path)) as view:
                await auntil(lambda: "will not know its workers" in caplog.text, 10)
                await auntil(lambda: view.pool.all_usable == {"a", "b"}, 10)
                await a.leave()
                await auntil(lambda: view.pool.all_usable == {"b"}, 5)
                assert "File too large" in caplog.text
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert [name for name in os.listdir(tmp_path) if name.startswith("workers-")] == []


def _count(folder: Path) -> int:
    view = ViewFile(folder, FLEET).load()
    return len(view.workers) if view is not None else 0
