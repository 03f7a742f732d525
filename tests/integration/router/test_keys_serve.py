"""API keys of the routing file under `vllama serve`: its start, and a reload in all its processes."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.integration.router.test_serve import refused
from tests.support.fleet.programs import Program
from tests.support.ports import free_ports
from tests.support.until import auntil
from vllama_pool.config.api_keys import digest

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="lifelines are Linux")]

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")
PROCESSES = 3
CONNECTIONS = 24
"""New connections, which any of the processes may accept."""


def keys(*names: str) -> str:
    return "keys:\n" + "".join(f"  {name}: {{sha256: {digest(f'{name}s-key').hex()}}}\n" for name in names)


def test_keys_of_the_routing_file_suffice_on_a_public_address(tmp_path: Path) -> None:
    """The start fails later, at a model that does not exist."""
    environ = {"VLLAMA_STATE_DIR": str(tmp_path / "state"), "VLLAMA_VLLM": sys.executable}
    file = tmp_path / "routing.yaml"
    words = ["--host", "0.0.0.0", "--port", "0", "--model", "/no/such/model", "--routing", str(file)]
    file.write_text("models: {}\n")
    assert "lets anyone who can reach it use the models" in refused(environ, *words)
    file.write_text(keys("anna"))
    assert "no model at /no/such/model" in refused(environ, *words)


def test_a_key_of_the_settings_and_of_the_file_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(keys("anna"))
    own = f"anna:{digest('x').hex()}"
    environ = {"VLLAMA_STATE_DIR": str(tmp_path / "state"), "VLLAMA_VLLM": sys.executable, "VLLAMA_API_KEYS": own}
    output = refused(environ, "--port", "0", "--routing", str(file))
    assert (
        output == f"vllama: {file}:2:3: keys.anna: VLLAMA_API_KEYS has a key of this name, too; rename or remove one\n"
    )


async def statuses(url: str, name: str) -> set[int]:
    """Return the statuses of requests on new connections."""

    async def ask() -> int:
        async with httpx.AsyncClient(timeout=60, trust_env=False, verify=False) as client:
            return (await client.get(f"{url}/api/tags", headers={"x-api-key": f"{name}s-key"})).status_code

    return set(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))


async def test_a_reload_adds_and_removes_keys_in_every_process(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    _write(file, keys("anna", "bob"))
    words = ["--port", "0", "--processes", str(PROCESSES), "--engine", "simulated", "--model", "demo"]
    words += ["--vllm-port", str(free_ports(2)), "--routing", str(file)]
    serve = Program([*VLLAMA, "serve", *words], {"VLLAMA_STATE_DIR": str(tmp_path / "state")}, tmp_path / "log")
    try:
        await auntil(lambda: serve.says("ready. Try:") or not serve.alive, 60, "it is ready")
        found = re.search(r"^router +(http://\S+)  listening", _read(serve.log), re.MULTILINE)
        assert found, _read(serve.log)
        url = found.group(1)
        assert [await statuses(url, name) for name in ("anna", "bob", "carol")] == [{200}, {200}, {401}]
        _write(file, keys("bob", "carol"))

        async def changed() -> bool:
            return await statuses(url, "carol") == {200} and await statuses(url, "anna") == {401}

        await auntil(changed, 30, "all processes to have the new keys")
        assert await statuses(url, "bob") == {200}
    finally:
        await asyncio.to_thread(serve.end)


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _read(file: Path) -> str:
    return file.read_text()
