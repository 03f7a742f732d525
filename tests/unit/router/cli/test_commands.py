"""Output and error messages of `vllama ps`, `check` and `key`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from rich.table import Table

from vllama_pool.config.api_keys import digest, identify, parse_keys
from vllama_pool.config.routing.table import parse
from vllama_pool.router.cli.main import main
from vllama_pool.router.cli.tables import workers_table
from vllama_pool.router.telemetry.worker_view import WorkerView

WORKER = {
    "id": "smollm2-0",
    "url": "http://127.0.0.1:8100",
    "state": "restarting",
    "models": ["smollm2:135m"],
    "running": 3,
    "waiting": 2,
    "in_flight": 1,
    "slots": 8,
    "kv_usage": 0.25,
    "tokens_per_second": 51.4,
    "restarts": 1,
    "note": "CUDA out of memory",
    "breaker": "open",
    "engine": "vllm",
    "engine_version": "0.32.0",
    "speed": 1.0,
}
Serve = Callable[[int, Any], str]


@pytest.fixture
def router() -> Iterator[Serve]:
    """Starts an HTTP server that gives one response. Returns its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: Any) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = body if isinstance(body, str) else json.dumps(body)
                self.send_response(status if self.path == "/admin/workers" else 404)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def vllama(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"VLLAMA_HOST": None, "OLLAMA_HOST": None})


def test_ps_shows_state_load_and_problems_of_each_worker(router: Serve) -> None:
    result = vllama("ps", "--url", router(200, {"workers": [WORKER], "registry_up": True}))
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if "smollm2-0" in line)
    for text in (
        "smollm2:135m",
        "restarting",
        "breaker open",
        "CUDA out of memory",
        "3/8",
        "25%",
        "51",
        "restarted once",
        "127.0.0.1:8100",
    ):
        assert text in row


HOSTILE = "m:100:[/x]\x1b]0;t\x07\x9b\u202e"
SHOWN = "m:100:[/x]\\x1b]0;t\\x07\\x9b\\u202e"


def test_ps_shows_names_and_notes_of_workers_as_they_are_without_control_characters(router: Serve) -> None:
    worker = {**WORKER, "models": [HOSTILE], "note": HOSTILE}
    page = {"workers": [worker], "registry_up": False, "registry_problem": HOSTILE}
    result = vllama("ps", "--url", router(200, page))
    assert result.exit_code == 0
    assert result.stdout.count(SHOWN) == 2
    assert SHOWN in result.stderr


def test_errors_of_a_server_are_printed_without_control_characters(router: Serve) -> None:
    result = vllama("ps", "--url", router(400, {"error": f"{HOSTILE}\n{HOSTILE}\x85"}))
    assert result.stderr.rstrip("\n").isprintable()
    assert SHOWN in result.stderr


def test_ps_shows_the_requests_that_wait_in_the_router_by_model(router: Serve) -> None:
    waiting = [{"model": "m", "requests": 1, "absent": True}, {"model": "n", "requests": 3, "absent": False}]
    result = vllama("ps", "--url", router(200, {"workers": [], "registry_up": True, "waiting": waiting}))
    assert "m: 1 request waiting in the router, as no worker is available" in result.stdout
    assert "n: 3 requests waiting in the router, as the workers or places are full" in result.stdout


def test_ps_drops_columns_on_a_narrow_terminal_instead_of_breaking_words() -> None:
    worker = msgspec.convert(WORKER, WorkerView)
    wide, narrow = (print_out(workers_table([worker], width), width) for width in (130, 90))
    assert wide.split()[:8] == ["WORKER", "MODEL", "STATE", "RUN", "WAIT", "KV", "TOK/S", "ADDRESS"]
    assert "ADDRESS" not in narrow
    for text in (wide, narrow):
        assert len(text.splitlines()) == 2
        assert "restarting, breaker open, restarted once, CUDA out of memory" in text


def print_out(table: Table, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_ps_reports_an_unwritable_output_in_one_line(router: Serve) -> None:
    url = router(200, {"workers": [WORKER]})
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "vllama_pool.router.cli.main", "ps", "--url", url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("vllama: cannot write the output: No space left on device\n")
    assert "Traceback" not in done.stderr


def test_ps_warns_when_a_router_process_did_not_answer(router: Serve) -> None:
    result = vllama("ps", "--url", router(200, {"workers": [WORKER], "processes": {"total": 4, "answered": 3}}))
    assert result.exit_code == 0
    assert "3 of 4 router processes answered" in result.stderr


def test_ps_accepts_a_url_without_a_scheme(router: Serve) -> None:
    assert vllama("ps", "--url", router(200, {"workers": [WORKER]}).removeprefix("http://")).exit_code == 0


def test_ps_without_workers_prints_how_to_start_one(router: Serve) -> None:
    result = vllama("ps", "--url", router(200, {"workers": []}))
    assert result.exit_code == 0
    assert "vllama worker --model" in result.stdout


def test_ps_warns_when_the_registry_does_not_answer(router: Serve) -> None:
    result = vllama("ps", "--url", router(200, {"workers": [WORKER], "registry_up": False}))
    assert "as last known" in result.stderr


def test_ps_repeats_the_words_of_the_router_about_the_registry(router: Serve) -> None:
    problem = 'the registry at h:6379 answered "LOADING data"; wait until it has loaded its data'
    result = vllama("ps", "--url", router(200, {"workers": [], "registry_up": False, "registry_problem": problem}))
    assert problem in result.stderr


def test_ps_json_prints_the_routers_response(router: Serve) -> None:
    result = vllama("ps", "--json", "--url", router(200, {"workers": [WORKER]}))
    assert json.loads(result.stdout) == {"workers": [WORKER]}


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (403, '{"error":"only from the router\'s own machine"}', "own machine"),
        (200, "Ollama is running", "is not a vLLama router"),
        (200, {"models": []}, "is not a vLLama router"),
        (404, "404 page not found", "answered 404"),
        (404, "<html>\n<p>Not found</p>\n</html>", "that is not a vLLama router"),
    ],
)
def test_ps_reports_a_server_that_is_not_a_vllama_router(router: Serve, status: int, body: Any, text: str) -> None:
    result = vllama("ps", "--url", router(status, body))
    assert result.exit_code == 1
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ps_without_a_router_prints_one_line_that_says_what_to_do() -> None:
    result = vllama("ps", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "vllama serve" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_check_prints_the_models_and_workers_of_a_routing_file(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(
        "models:\n  llama3.2:\n    serve: org/Llama\n    aliases: [small]\n    options: {temperature: 0.5}\n"
        "workers:\n  - url: http://10.0.0.5:8000\n"
    )
    result = vllama("check", str(file))
    assert result.exit_code == 0
    for text in (
        "llama3.2",
        "org/Llama",
        "small",
        "temperature=0.5",
        "http://10.0.0.5:8000",
        "1 model, 1 static worker;",
    ):
        assert text in result.stdout


def test_check_shows_names_with_brackets_and_colons_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text('models: {m: {serve: "a:100:[/x]", options: {stop: ["[b]"]}}}\n')
    result = vllama("check", str(path))
    assert result.exit_code == 0
    assert "a:100:[/x]" in result.stdout
    assert "['[b]']" in result.stdout


def test_check_prints_one_line_per_mistake(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models:\n  a: {serv: x}\nworker: []\n")
    result = vllama("check", str(file))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert all(line.startswith(f"vllama: {file}:") for line in result.stderr.splitlines())


def test_check_of_a_missing_file_prints_one_line(tmp_path: Path) -> None:
    result = vllama("check", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_new_key_is_accepted_by_a_router_with_its_entry() -> None:
    result = vllama("key", "new", "ci")
    secret = result.stdout.split("for the client:")[1].split()[0]
    entry = result.stdout.split("VLLAMA_API_KEYS=")[1].split()[0]
    assert identify(secret, {key.digest: key.name for key in parse_keys(entry)}) == "ci"
    assert vllama("key", "new", "ci").stdout != result.stdout


def test_a_new_key_comes_with_its_lines_for_the_routing_file() -> None:
    for name in ("ci", "7", "0x1f", "null", "1e3"):
        lines = vllama("key", "new", name).stdout.splitlines()
        secret = lines[0].split()[-1]
        table = parse("\n".join(lines[lines.index("keys:") :]).encode())
        assert table.entries.keys is not None
        assert {bytes.fromhex(key.sha256): each for each, key in table.entries.keys.items()} == {digest(secret): name}


def test_a_key_name_that_makes_its_entry_ambiguous_is_refused() -> None:
    result = vllama("key", "new", "a,b:c")
    assert result.exit_code == 1
    assert "letters, digits" in result.stderr


def test_the_version_option_prints_the_package_version() -> None:
    assert vllama("--version").stdout.startswith("vllama ")
