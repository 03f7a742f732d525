"""Virtual models under `vllama serve`: all its processes have them, and they survive a restart."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="lifelines are Linux")]

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")


@contextmanager
def serving(folder: Path, processes: int, how_to_end: signal.Signals) -> Iterator[str]:
    """Run `vllama serve` with a simulated worker and yield its URL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_", "REDIS_"))}
    out = folder / "out"
    words = ["--port", "0", "--processes", str(processes), "--engine", "simulated", "--model", "demo"]
    words += ["--vllm-port", str(free_ports(2)), "--tokens-per-second", "200"]
    environ = {**kept, "VLLAMA_STATE_DIR": str(folder / "state")}
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*VLLAMA, "serve", *words],
            env=environ,
            stdout=file,
            stderr=file,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  it takes no locks
        )
    try:
        until(lambda: "ready. Try:" in out.read_text() or process.poll() is not None, 60, "it is ready")
        found = re.search(r"^router +(http://\S+)  listening", out.read_text(), re.MULTILINE)
        assert found, out.read_text()
        yield found.group(1)
    finally:
        process.send_signal(how_to_end)
        process.wait(60)


def ask(url: str, method: str, path: str, **body: object) -> httpx.Response:
    """Send on a new connection, which any of the processes may accept."""
    return httpx.request(method, f"{url}{path}", json=body, timeout=60, trust_env=False, verify=False)


def names(url: str) -> set[str]:
    return {model["name"] for model in ask(url, "GET", "/api/tags").json()["models"]}


def test_a_model_created_in_one_process_is_served_by_all(tmp_path: Path) -> None:
    with serving(tmp_path, 3, signal.SIGTERM) as url:
        for number in range(12):
            name = f"v{number}"
            assert ask(url, "POST", "/api/create", model=name, **{"from": "demo"}, stream=False).status_code == 200
            for _ in range(3):
                body = {"model": name, "stream": False, "options": {"num_predict": 1}}
                chatted = ask(url, "POST", "/api/chat", messages=[{"role": "user", "content": "hi"}], **body)
                assert chatted.status_code == 200
            assert ask(url, "DELETE", "/api/delete", model=name).status_code == 200
            for _ in range(3):
                assert ask(url, "POST", "/api/show", model=name).status_code == 404


def running(url: str) -> dict[str, str]:
    """Return `expires_at` by name."""
    return {model["name"]: model["expires_at"] for model in ask(url, "GET", "/api/ps").json()["models"]}


def test_every_process_shows_a_model_loaded_or_unloaded_through_any_of_them(tmp_path: Path) -> None:
    with serving(tmp_path, 4, signal.SIGTERM) as url:
        assert ask(url, "POST", "/api/create", model="v", **{"from": "demo"}, stream=False).status_code == 200
        for minutes in range(10, 18):
            assert ask(url, "POST", "/api/generate", model="v", keep_alive=f"{minutes}m").status_code == 200
            assert ask(url, "POST", "/api/generate", model="demo", keep_alive=f"{minutes}h").status_code == 200
            shown = running(url)
            assert set(shown) == {"demo:latest", "v:latest"}
            with ThreadPoolExecutor(16) as clients:
                assert set(map(str, clients.map(lambda _: running(url), range(16)))) == {str(shown)}
            left = datetime.fromisoformat(shown["v:latest"]) - datetime.now(UTC)
            assert timedelta(minutes=minutes - 2) < left <= timedelta(minutes=minutes)
            body = {"model": "v", "prompt": "hi", "stream": False, "options": {"num_predict": 1}}
            assert ask(url, "POST", "/api/generate", **body, keep_alive=0).status_code == 200
            assert [set(running(url)) for _ in range(4)] == [{"demo:latest"}] * 4


@pytest.mark.parametrize("how_to_end", [signal.SIGTERM, signal.SIGKILL])
def test_virtual_models_survive_a_restart_of_serve(tmp_path: Path, how_to_end: signal.Signals) -> None:
    with serving(tmp_path, 1, how_to_end) as url:
        for name in ("v", "gone"):
            assert ask(url, "POST", "/api/create", model=name, **{"from": "demo"}, system="s").status_code == 200
        assert ask(url, "DELETE", "/api/delete", model="gone").status_code == 200
    (file,) = (tmp_path / "state" / "registry").glob("models-*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with serving(tmp_path, 2, signal.SIGTERM) as url:
        assert [names(url) for _ in range(6)] == [{"demo:latest", "v:latest"}] * 6
        chatted = ask(url, "POST", "/api/generate", model="v", prompt="hi", stream=False, options={"num_predict": 1})
        assert chatted.status_code == 200
