"""`vllama serve` from the command line: refused options, and a whole run with simulated workers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner

from tests.support.fleet.programs import Program
from tests.support.ports import free_ports
from tests.support.processes import is_alive
from tests.support.registry.refusing import answering
from tests.support.until import auntil, until
from vllama_pool.router.cli.main import main
from vllama_pool.router.supervisor.listening_socket import listen
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.registry.embedded import folder
from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record
from vllama_pool.workers.registry.view_file import SavedWorker, ViewFile

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="lifelines are Linux")]

VLLAMA = (sys.executable, "-m", "vllama_pool.router.cli.main")
EXPORTED = ("HOST", "PORT", "WORKER_PORT", "ROUTING_FILE", "PROCESSES", "REDIS_URL", "ALLOW_ANONYMOUS", "ADVERTISE")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"VLLAMA_STATE_DIR": str(tmp_path / "state"), "VLLAMA_VLLM": sys.executable}


def refused(environ: dict[str, str], *words: str) -> str:
    """Run `vllama serve` in this process and return the error that it prints."""
    unset = [name for name in os.environ if name.startswith(("VLLAMA_", "OLLAMA_", "REDIS_"))]
    cleared = dict.fromkeys([*unset, *(f"VLLAMA_{name}" for name in EXPORTED)])
    result = CliRunner().invoke(main, ["serve", *words], env={**cleared, **environ})
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def one_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and text.startswith("vllama: ")


def test_serve_on_a_port_in_use_prints_one_line(environ: dict[str, str]) -> None:
    with listen("127.0.0.1", 0) as busy:
        output = refused(environ, "--port", str(busy.getsockname()[1]))
    assert one_line(output)
    assert "is in use" in output


@pytest.mark.rule(185)
def test_ollama_host_sets_the_listening_address(environ: dict[str, str]) -> None:
    with listen("127.0.0.1", 0) as busy:
        output = refused({**environ, "OLLAMA_HOST": f"127.0.0.1:{busy.getsockname()[1]}"})
    assert "is in use" in output


def test_a_vllm_port_in_use_is_reported_before_anything_is_loaded(environ: dict[str, str]) -> None:
    with listen("127.0.0.1", 0) as busy:
        port = str(busy.getsockname()[1])
        output = refused(environ, "--port", "0", "--engine", "simulated", "--model", "m", "--vllm-port", port)
    assert one_line(output)
    assert f"port {port} for worker" in output


@pytest.mark.parametrize(
    ("words", "variables", "text"),
    [
        (["--host", "0.0.0.0"], {}, "--allow-anonymous"),
        (["--redis-url", "redis://10.0.0.1:6379"], {}, "VLLAMA_FLEET_SECRET"),
        (["--model", "/no/such/model"], {}, "no model at /no/such/model"),
        (["--model", "org/m"], {"VLLAMA_VLLM": "/no/such/vllm"}, "correct VLLAMA_VLLM"),
        ([], {"VLLAMA_GRACE": "soon"}, "VLLAMA_GRACE"),
        ([], {"VLLAMA_MAX_CONNECTIONS": "-1"}, "VLLAMA_MAX_CONNECTIONS: '-1' is not a whole number from 0"),
        ([], {"REDIS_URL": "localhost"}, "REDIS_URL"),
        (["--routing", "/no/such.yaml"], {}, "/no/such.yaml"),
    ],
)
def test_impossible_options_print_one_line_that_says_what_to_do(
    environ: dict[str, str], words: list[str], variables: dict[str, str], text: str
) -> None:
    output = refused({**environ, **variables}, "--port", "0", *words)
    assert one_line(output)
    assert text in output


LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


@contextmanager
def serve_with_redis(environ: dict[str, str], folder: Path, port: int) -> Iterator[Program]:
    """Start `vllama serve` with a password in the address of its Redis."""
    more = {"VLLAMA_FLEET_SECRET": "0123456789abcdef", "REDIS_URL": f"redis://user:topsecret@127.0.0.1:{port}/0"}
    serve = Program([*VLLAMA, "serve", "--port", "0"], {**environ, **more}, folder / "log")
    try:
        yield serve
    finally:
        serve.end()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("answer", [LOADING, b""], ids=["loading", "silent"])
async def test_a_stop_signal_ends_the_wait_for_redis(
    environ: dict[str, str], tmp_path: Path, answer: bytes, stop: signal.Signals
) -> None:
    async with answering(answer) as port:
        with serve_with_redis(environ, tmp_path, port) as serve:
            await auntil(lambda: serve.says("waiting up to ") or not serve.alive, 60, "it waits")
            serve.signal(stop)
            assert await asyncio.to_thread(serve.wait, 15) == 0  # of 30 s
    (line,) = serve.log.read_text().splitlines()
    assert re.match(r"registry  redis  waiting up to \d+ s: ", line)
    assert f"127.0.0.1:{port}" in line
    assert "topsecret" not in line


async def test_a_redis_that_refuses_the_password_ends_serve_with_one_line(
    environ: dict[str, str], tmp_path: Path
) -> None:
    async with answering(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n") as port:
        with serve_with_redis(environ, tmp_path, port) as serve:
            assert await asyncio.to_thread(serve.wait, 60) == 1
    output = serve.log.read_text()
    assert one_line(output)
    assert f"127.0.0.1:{port}" in output
    assert "topsecret" not in output


def test_a_broken_routing_file_is_reported_with_file_and_line(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models:\n  a: {serv: x}\n")
    output = refused(environ, "--port", "0", "--routing", str(file))
    assert one_line(output)
    assert f"{file}:2" in output


def test_a_vllm_that_dies_at_start_stops_serve_with_the_reason_from_its_log(
    environ: dict[str, str], tmp_path: Path
) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\necho 'ValueError: No available memory for the cache blocks.' >&2\nexit 1\n")
    vllm.chmod(0o755)
    words = ["--port", "0", "--model", "org/m", "--vllm-port", str(free_ports(1))]
    variables = {**os.environ, **environ, "VLLAMA_VLLM": str(vllm)}
    done = subprocess.run([*VLLAMA, "serve", *words], env=variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert one_line(done.stderr)
    assert "No available memory for the cache blocks" in done.stderr


class Served:
    """`vllama serve` with two simulated workers and further options."""

    def __init__(self, environ: dict[str, str], folder: Path, *more: str) -> None:
        words = ["--port", "0", "--engine", "simulated", "--model", "demo", "--name", "demo", "--replicas", "2"]
        words += ["--vllm-port", str(free_ports(3)), "--tokens-per-second", "50", *more]
        variables = {**os.environ, **environ}
        self.out = folder / "out"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [*VLLAMA, "serve", *words],
                env=variables,
                stdout=out,
                stderr=out,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  it takes no locks
            )
        try:
            until(lambda: "ready. Try:" in self.out.read_text(), 180, "it is ready")
        except AssertionError as error:
            raise AssertionError(self.out.read_text()) from error
        lines = self.out.read_text().splitlines()
        router = next(line for line in lines if line.startswith("router "))
        self.url = router.split()[1]
        self.tree = psutil.Process(self.process.pid).children(recursive=True)

    def logged(self) -> list[dict[str, Any]]:
        """Log lines except those of requests."""
        lines = [json.loads(line) for line in self.out.read_text().splitlines() if line.startswith('{"time"')]
        return [line for line in lines if "logger" in line]

    def survivors(self) -> list[str]:
        return [str(process) for process in self.tree if is_alive(process)]

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            until(lambda: not self.survivors(), 15, "no process survives")


@pytest.fixture
def served(environ: dict[str, str], tmp_path: Path) -> Iterator[Served]:
    with Served(environ, tmp_path) as running:
        yield running


def chat(url: str, **fields: Any) -> httpx.Response:
    body = {"model": "demo", "stream": False, "messages": [{"role": "user", "content": "hi"}], **fields}
    return httpx.post(f"{url}/api/chat", json=body, timeout=60, trust_env=False, verify=False)


@pytest.mark.rule(184)
def test_serve_prints_commands_to_try_and_finishes_running_requests_on_stop(served: Served) -> None:
    answer = chat(served.url, options={"num_predict": 5})
    assert answer.status_code == 200
    assert answer.json()["eval_count"] == 5

    table = subprocess.run([*VLLAMA, "ps", "--url", served.url], capture_output=True, text=True, timeout=60).stdout
    rows = [line.split()[:2] for line in table.splitlines() if "demo-" in line]
    assert rows == [["demo-0", "demo"], ["demo-1", "demo"]]

    output = served.out.read_text()
    assert output.count("loading …") >= 2
    assert output.count("ready after") == 2
    assert {line["level"] for line in served.logged()} <= {"info", "warning"}
    assert len(re.findall(r"^  (?:curl|\S*vllama) ", output, re.MULTILINE)) == 3

    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 60}}
    with httpx.stream(
        "POST", f"{served.url}/api/chat", json=body, timeout=60, trust_env=False, verify=False
    ) as streamed:
        lines = streamed.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in served.out.read_text(), 10, "it stops")
        last = list(lines)[-1]
    assert '"done":true' in last
    assert '"eval_count":60' in last
    assert served.process.wait(30) == 0
    assert served.survivors() == []


def test_compat_finds_no_difference_for_serve_without_models(served: Served) -> None:
    rules = ("--rule", "R009", "--rule", "R010", "--rule", "R111", "--rule", "R175")
    seen = subprocess.run([*VLLAMA, "compat", served.url, *rules], capture_output=True, text=True, timeout=60)
    assert (seen.stdout.splitlines()[-1], seen.returncode) == ("4 rules checked: 4 as Ollama, 0 differ", 0)


@pytest.mark.rule(193)
def test_at_debug_the_log_says_why_a_worker_was_chosen_and_holds_uvicorns_lines(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with Served({**environ, "OLLAMA_DEBUG": "1"}, tmp_path) as served:
        assert chat(served.url, options={"num_predict": 2}).status_code == 200
        until(lambda: any("chose demo-" in line["message"] for line in served.logged()), 15, "the choice in the log")
        lines = [line["message"] for line in served.logged() if line["level"] == "debug"]
    chosen = next(line for line in lines if "chose demo-" in line)
    assert "score" in chosen
    assert any("answers" in line for line in lines)
    assert any(line["logger"].startswith("uvicorn") for line in served.logged())


def test_an_invalid_request_leaves_one_line_in_the_log_with_its_cure(served: Served) -> None:
    before = len(served.logged())
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"no request\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert chat(served.url, options={"num_predict": 2}).status_code == 200
    (line,) = until(lambda: [one for one in served.logged()[before:] if one["message"].startswith("refused: ")])
    assert line["message"].startswith("refused: a request from 127.0.0.1 is malformed: ")
    assert "no request" not in line["message"]


@pytest.mark.rule(189, 201)
def test_proxy_variables_are_ignored_and_ineffective_variables_are_reported_once(
    environ: dict[str, str], tmp_path: Path
) -> None:
    dead = "http://127.0.0.1:9"
    proxies = {"HTTP_PROXY": dead, "HTTPS_PROXY": dead, "ALL_PROXY": dead, "NO_PROXY": ""}
    lower = {name.lower(): value for name, value in proxies.items()}
    ollamas = {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_KEEP_ALIVE": "soon"}
    with Served({**environ, **proxies, **lower, **ollamas}, tmp_path, "--processes", "2") as served:
        assert chat(served.url, options={"num_predict": 2}).json()["eval_count"] == 2
        output = served.out.read_text()
    assert output.count("OLLAMA_NUM_PARALLEL has no effect: ") == 1
    assert output.count("OLLAMA_KEEP_ALIVE: 'soon' is not a duration ") == 1


def test_and_serves_a_second_model_with_its_own_flags(environ: dict[str, str], tmp_path: Path) -> None:
    more = "--and --engine simulated --model vectors --name vectors --runner pooling --dimensions 7 --max-num-seqs 3"
    with Served(environ, tmp_path, *more.split()) as served:
        assert chat(served.url, options={"num_predict": 2}).json()["eval_count"] == 2
        asked = {"model": "vectors", "input": ["one", "two"]}
        vectors = httpx.post(f"{served.url}/api/embed", json=asked, timeout=60, trust_env=False, verify=False).json()[
            "embeddings"
        ]
        assert [len(vector) for vector in vectors] == [7, 7]
        listed = httpx.get(f"{served.url}/api/tags", timeout=60, trust_env=False, verify=False).json()["models"]
        assert {model["name"]: model["capabilities"] for model in listed} == {
            "demo:latest": ["completion"],
            "vectors:latest": ["embedding"],
        }
        page = httpx.get(f"{served.url}/admin/workers", timeout=60, trust_env=False, verify=False).json()
        assert {worker["id"]: worker["slots"] for worker in page["workers"]} == {"demo-0": 8, "demo-1": 8, "vectors": 3}


def test_no_process_survives_a_killed_serve(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    until(lambda: not served.survivors(), 10, "no process survives")


def test_a_running_stream_finishes_after_serve_is_killed_and_no_process_survives(served: Served) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 60}}
    with httpx.stream("POST", f"{served.url}/api/chat", json=body, timeout=60, trust_env=False, verify=False) as answer:
        lines = answer.iter_lines()
        next(lines)
        served.process.kill()
        last = list(lines)[-1]
    assert '"done":true' in last
    assert '"eval_count":60' in last
    until(lambda: not served.survivors(), 15, "no process survives")


async def test_serve_starts_at_once_with_the_workers_that_it_saved(environ: dict[str, str], tmp_path: Path) -> None:
    record = WorkerRecord(id="w", generation=1, url="http://127.0.0.1:1", models=(ModelInfo(name="m"),))
    state = tmp_path / "state"
    file = ViewFile(folder(state), "default")
    file.save({"w": SavedWorker(sign_record(record, fleet="default", secret=b"0123456789abcdef"))}, {})
    with serve_with_redis({**environ, "VLLAMA_STATE_DIR": str(state)}, tmp_path, free_ports()) as serve:
        await auntil(lambda: serve.says("Ollama API") or serve.says("http://127.0.0.1:") or not serve.alive, 20)
        await auntil(lambda: serve.says("workers are as this machine saved them") or not serve.alive, 20)
        assert serve.alive
        output = serve.log.read_text()
    assert "starting with the workers that this machine saved: no answer from the registry" in output
    assert "waiting up to" not in output
    assert "topsecret" not in output
