"""Reloads of the routing file in all processes of `vllama serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.programs import Json, Serve
from tests.support.fleet.reloads import (
    BODY,
    FIRST,
    PROCESSES,
    VLLAMA,
    Clients,
    Measured,
    Router,
    connected,
    rename,
    running,
    table,
    write,
    write_in_pieces,
)
from tests.support.fleet.streams import Figures
from tests.support.until import auntil
from vllama_pool.config.routing.table import load

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")]

SECOND = "models: {m: {serve: y}, n: {serve: x}}\n"
BROKEN = "models:\n  m: {serve: x, polcy: least-load}\n"


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("serve")
    file = folder / "routing.yaml"
    file.write_text(FIRST)
    with running(folder, file) as serve:
        yield serve


@pytest.fixture
async def router(serve: Serve) -> AsyncIterator[Router]:
    """The server with its first table."""
    async with connected(serve, serve.log.with_name("routing.yaml")) as router:
        router.file.write_text(FIRST)
        await router.live()
        await router.all_have(lambda state: not state["problems"], 20, "the first table is live")
        yield router


def ps(router: Router) -> subprocess.CompletedProcess[str]:
    words = [*VLLAMA, "ps", "--url", router.serve.url]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)


async def served(router: Router, times: int = 2 * PROCESSES) -> set[str]:
    """Return the models that answered for `m`, by the request log."""
    before = set(router.serve.requests())
    await asyncio.gather(*(router.chat(tokens=1) for _ in range(times)))
    new: dict[str, str] = {}

    def logged() -> bool:
        new.update({key: one["served"] for key, one in router.serve.requests().items() if key not in before})
        return len(new) >= times

    await auntil(logged, 10, "the requests are logged")
    return set(new.values())


async def test_saves_of_each_kind_take_effect_in_every_process_under_streams(
    router: Router, record_property: Figures
) -> None:
    measured = Measured()
    saves = [write, None, rename, write_in_pieces, None, write, rename, None, write_in_pieces, write, None, None]
    async with Clients(router).running(12) as clients:
        await measured.exercise(router, saves, 0.0)
    assert clients.broken == []
    assert clients.complete >= 12
    requests: list[Json] = []

    def logged() -> bool:
        requests[:] = [one for one in router.serve.requests().values() if one.get("completion_tokens") == 20]
        return len(requests) >= clients.complete

    await auntil(logged, 10, "the requests are logged")
    assert {(one["outcome"], one["attempts"]) for one in requests} == {("complete", 1)}
    assert {one["served"] for one in requests} == {"x", "y"}
    record_property("figure", f"save to effect in 3 processes: {max(measured.effects):.2f} s at most")


async def test_ps_and_the_log_show_a_broken_file_and_what_stays_live(router: Router) -> None:
    live = load(router.file).revision
    logged = router.serve.log.read_text().count("did you mean 'policy'?")
    await router.refuses(BROKEN)
    shown = await asyncio.to_thread(ps, router)
    assert f"routing file {router.file}: revision {live} in router-0, router-1, router-2, read " in shown.stdout
    first, second, *_ = shown.stderr.splitlines()
    assert first == (
        "the routing file as it is now is refused by router-0, router-1, router-2; the revision above stays live:"
    )
    assert second == f"  {router.file}:2:17: models.m.polcy: unknown key; did you mean 'policy'?"
    page = (await router.http.get("/metrics")).text
    assert page.count("vllama_config_reload_success{") == PROCESSES
    assert 'vllama_config_reload_success{process="2"} 0.0' in page
    assert f'vllama_config_revision_info{{process="1",revision="{live}"}} 1.0' in page
    await auntil(lambda: router.serve.log.read_text().count("did you mean 'policy'?") > logged, 10, "the log line")
    logged = router.serve.log.read_text().count("did you mean 'policy'?") - logged
    assert logged == 1  # not once per process
    assert await served(router) == {"x"}


async def test_a_hang_up_signal_reads_the_file_in_every_process(router: Router) -> None:
    loaded = {name: state["loaded"] for name, state in (await router.all_states()).items()}
    router.serve.signal(signal.SIGHUP)
    await auntil(lambda: router.serve.says(f"reloading {router.file}"), 10, "serve says so")

    async def read() -> bool:
        states = await router.states()
        return all(state["loaded"] > loaded[name] for name, state in states.items()) and len(states) == PROCESSES

    await auntil(read, 20, "each process has read it")
    assert router.serve.alive
    assert await served(router) == {"x"}


async def test_a_hang_up_signal_to_one_process_changes_nothing_else(router: Router) -> None:
    process = router.serve.find("vllama_pool.router.start")
    assert process is not None
    process.send_signal(signal.SIGHUP)
    router.file.write_text(SECOND)
    await router.live()
    assert process.is_running()
    assert await served(router) == {"y"}


async def test_a_stream_finishes_on_its_target_after_the_table_has_changed(router: Router) -> None:
    async with router.http.stream("POST", "/api/chat", json={**BODY, "options": {"num_predict": 23}}) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        router.file.write_text(SECOND)
        await router.live()
        assert await served(router) == {"y"}
        last = [line async for line in lines][-1]
    assert json.loads(last)["eval_count"] == 23

    def logged() -> list[tuple[object, object]]:
        requests = router.serve.requests().values()
        return [(one["served"], one["attempts"]) for one in requests if one.get("completion_tokens") == 23]

    assert await auntil(logged, 10, "it is logged") == [("x", 1)]


async def test_a_table_that_orphans_a_model_in_use_is_refused_in_every_process(router: Router) -> None:
    await router.chat(tokens=1)  # in one process, which tells the others
    router.file.write_text("models: {n: {serve: x}}\n")
    await router.all_have(lambda state: bool(state["refused"]), 20, "it is refused")
    (message,) = {state["problems"][0]["message"] for state in (await router.states()).values()}
    assert "no worker would serve 'm'" in message
    assert await served(router) == {"x"}
    router.file.write_text("models: {n: {serve: x}}\nreload: {orphans: allow}\n")
    await router.live()
    assert (await router.http.post("/api/show", json={"model": "m"})).status_code == 404


async def test_the_swap_of_a_mounted_config_map_takes_effect(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    for number, text in enumerate((FIRST, SECOND)):
        (mounted / f"..{number}").mkdir(parents=True)
        (mounted / f"..{number}" / "routing.yaml").write_text(text)
    (mounted / "..data").symlink_to("..0")
    (mounted / "routing.yaml").symlink_to("..data/routing.yaml")
    with running(tmp_path, mounted / "routing.yaml") as serve:
        async with connected(serve, mounted / "routing.yaml") as router:
            assert await served(router) == {"x"}
            (mounted / "..data_tmp").symlink_to("..1")
            (mounted / "..data_tmp").rename(mounted / "..data")
            shutil.rmtree(mounted / "..0")
            await router.live()
            assert await served(router) == {"y"}


async def test_a_deleted_file_keeps_the_table_until_it_returns(router: Router) -> None:
    await router.refuses(None)
    assert await served(router) == {"x"}
    router.file.write_text(table(1))
    await router.live()
    assert await served(router) == {"y"}


async def test_static_workers_come_and_go_by_reload(router: Router) -> None:
    async def ready() -> set[str]:
        workers = (await router.http.get("/admin/workers")).json()["workers"]
        return {worker["id"] for worker in workers if worker["state"] == "ready"}

    async def has_joined() -> bool:
        return "static/more" in await ready()

    async def has_left() -> bool:
        return "static/more" not in await ready()

    workers = (await router.http.get("/admin/workers")).json()["workers"]
    (url,) = [worker["url"] for worker in workers if worker["id"] == "x"]
    router.file.write_text(f"{FIRST}workers: [{{url: '{url}', name: more}}]\n")
    await auntil(has_joined, 20, "it joins")
    router.file.write_text(FIRST)
    await auntil(has_left, 20, "it leaves")
    assert {"x", "y"} <= await ready()


@pytest.mark.parametrize("text", [BROKEN, "", "models: {n: {serve: x}}\n"], ids=["broken", "empty", "orphans m"])
async def test_a_process_that_restarts_keeps_the_live_table_while_the_file_is_refused(
    router: Router, text: str
) -> None:
    live = load(router.file).revision
    await router.chat(tokens=1)
    await router.refuses(text)
    process = router.serve.find("vllama_pool.router.start")
    assert process is not None
    process.kill()

    async def again() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            states = await router.states()
            return len(states) == PROCESSES and all(state["problems"] for state in states.values())
        return False

    await auntil(lambda: not process.is_running() or process.status() == "zombie", 20, "it is gone")
    await auntil(again, 60, "a new process has refused the file too")
    assert {state["revision"] for state in (await router.all_states()).values()} == {live}
    assert await served(router) == {"x"}
