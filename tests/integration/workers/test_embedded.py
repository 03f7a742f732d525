"""The embedded Valkey: private, restarted, and gone with its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.ports import free_ports
from tests.support.processes import is_alive
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil, until
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.embedded import (
    EmbeddedFailed,
    EmbeddedValkey,
    claim,
    socket_path,
    wait_ready,
)

PARENT = """
import asyncio, sys
from pathlib import Path
from vllama_pool.workers.registry.embedded import EmbeddedValkey, claim

async def main() -> None:
    owner = claim(Path(sys.argv[1]))
    assert owner is not None
    valkey = EmbeddedValkey(Path(sys.argv[1]))
    await valkey.start()
    await valkey.wait_ready()
    print(valkey.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def start_parent(state_dir: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Another process that owns a Valkey; and that Valkey."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(state_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_registry_listens_on_a_private_socket(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey:
        assert valkey.is_alive
        assert valkey.address == embedded.address(tmp_path) == str(socket_path(tmp_path))
        assert mode(Path(valkey.address).parent) == 0o700
        assert mode(Path(valkey.address)) == 0o700
        async with connect(valkey.address) as redis:
            assert (await redis.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
            await redis.set("x", "1")
        assert valkey.pid is not None
        assert psutil.Process(valkey.pid).net_connections("tcp") == []
    assert not valkey.is_alive
    assert Path(valkey.address).name not in os.listdir(Path(valkey.address).parent)


async def test_nothing_is_kept_over_a_stop(tmp_path: Path) -> None:
    for _ in range(2):
        async with running_valkey(tmp_path) as valkey, connect(valkey.address) as redis:
            assert await redis.dbsize() == 0
            await redis.set("x", "1")


async def test_the_registry_also_listens_on_loopback(tmp_path: Path) -> None:
    port = free_ports()
    async with running_valkey(tmp_path, port=port):
        await wait_ready(f"redis://127.0.0.1:{port}", 30)


async def test_a_crashed_registry_is_restarted(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey:
        for crash in (1, 2):
            pid = valkey.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await auntil(lambda: valkey.restarts == crash, 10)  # noqa: B023
            assert valkey.pid != pid
            await valkey.wait_ready()


async def test_stopping_it_between_a_crash_and_the_next_start_leaves_nothing(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    await valkey.start()
    await valkey.wait_ready()
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    await auntil(lambda: not valkey.is_alive, 5)
    await valkey.stop()
    await valkey.stop()
    assert not valkey.is_alive
    with pytest.raises(RegistryUnavailable):
        await wait_ready(valkey.address, 0.2)


async def test_a_failed_start_quotes_the_end_of_the_log(tmp_path: Path) -> None:
    async with running_valkey(tmp_path / "one", port=free_ports()) as first:
        assert first.is_alive
        port = first._port
        second = EmbeddedValkey(tmp_path / "two", port=port)
        await second.start()
        try:
            with pytest.raises(EmbeddedFailed, match=r"(?i)does not answer: .*(bind|listen|port).*valkey\.log"):
                await second.wait_ready(1.5)
        finally:
            await second.stop()


async def test_ctrl_c_does_not_reach_the_registry(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey:
        assert valkey.pid is not None
        assert os.getpgid(valkey.pid) == valkey.pid != os.getpgid(0)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_the_registry_dies_with_its_parent(kind: signal.Signals, tmp_path: Path) -> None:
    parent, valkey = start_parent(tmp_path)
    try:
        assert is_alive(valkey)
    finally:
        parent.send_signal(kind)
        parent.communicate()
    until(lambda: not is_alive(valkey), 10, "the orphan to end")


async def test_the_next_owner_takes_over_after_a_kill(tmp_path: Path) -> None:
    """Its socket must be the new one's: the old one must not take it away as it ends."""
    parent, old = start_parent(tmp_path)
    assert claim(tmp_path) is None
    await wait_ready(embedded.address(tmp_path), 30)
    parent.kill()
    parent.communicate()
    owner = await auntil(lambda: claim(tmp_path), 5)
    with owner:
        async with running_valkey(tmp_path) as valkey:
            until(lambda: not is_alive(old), 10)
            quiet = time.monotonic()
            await auntil(lambda: time.monotonic() > quiet + 0.5, 2)
            async with connect(valkey.address) as redis:
                await Registry(redis, "f").snapshot()


def test_there_is_one_owner_at_a_time(tmp_path: Path) -> None:
    with claim(tmp_path) or pytest.fail("nobody else claims it"):
        assert claim(tmp_path) is None
        with claim(tmp_path / "other") or pytest.fail("that is another one"):
            pass
    again = claim(tmp_path)
    assert again is not None
    again.release()
    again.release()


async def test_the_registry_runs_in_a_deep_state_directory(tmp_path: Path) -> None:
    async with running_valkey(tmp_path / ("d" * 60) / ("e" * 60)) as valkey:
        await wait_ready(valkey.address, 30)
        assert not Path(valkey.address).is_relative_to(tmp_path)
    os.rmdir(os.path.dirname(valkey.address))


async def test_a_waiter_hears_why_it_waited_in_vain(tmp_path: Path) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(RegistryUnavailable, match="is Redis running there"):
        await wait_ready(str(tmp_path / "nothing.sock"), 0.3)
    assert asyncio.get_running_loop().time() - started < 15
