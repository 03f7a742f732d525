"""Output and exit codes of `vllama compat`."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner, Result

from tests.support.ports import free_ports
from vllama_pool.router.cli.main import main
from vllama_pool.router.compat.rules import RULES

BANNER = b"Ollama is running"
TAGS = json.dumps({"models": [{"name": "m:latest", "size": 1, "capabilities": ["completion"]}]}).encode()
Serve = Callable[[dict[str, bytes]], str]


@pytest.fixture
def server() -> Iterator[Serve]:
    """Starts a server with these responses by path; others are a 404. Returns its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(pages: dict[str, bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def do_GET(self) -> None:
                body = pages.get(self.path, b'{"error": "not here"}')
                self.send_response(200 if self.path in pages else 404)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def compat(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compat", *arguments])


def test_exit_code_0_if_nothing_differs(server: Serve) -> None:
    result = compat(server({"/": BANNER}), "--rule", "R002")
    assert result.exit_code == 0
    assert "as Ollama" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 rule checked: 1 as Ollama, 0 differ"


def test_exit_code_1_if_something_differs(server: Serve) -> None:
    result = compat(server({"/": b"Welcome"}), "--rule", "r002", "--rule", "R185")
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if line.startswith("R002"))
    assert "GET /: expected body Ollama is running; got Welcome" in row
    assert result.stdout.splitlines()[-1].endswith("0 as Ollama, 1 differs; 1 not checked, --list says why")


def test_a_check_without_a_suitable_model_is_skipped(server: Serve) -> None:
    result = compat(server({"/": BANNER, "/api/tags": TAGS}), "--rule", "R096")
    assert result.exit_code == 0
    assert "--thinking-model" in result.stdout
    assert "1 skipped" in result.stdout


def test_json_prints_the_report_for_machines(server: Serve) -> None:
    url = server({"/": b"Welcome", "/api/tags": TAGS, "/api/show": b"{}"})
    result = compat(url, "--rule", "R002", "--json", "--tools-model", "t")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["counts"] == {"differs": 1, "skipped": 0, "same": 0, "not_checked": 0}
    assert report["models"] == {"chat": "m:latest", "tools": "t", "unthinking": "m:latest", "toolless": "m:latest"}
    assert [row["rule"] for row in report["rules"]] == ["R002"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "URL of the server is missing"),
        (["ftp://h"], "is not the URL of a server"),
        (["http://127.0.0.1:1", "--rule", "R999"], "R999 is not a rule; rules go from R001 to R224"),
    ],
)
def test_invalid_arguments_exit_with_2_and_a_reason(arguments: list[str], text: str) -> None:
    result = compat(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr


def test_an_unreachable_server_exits_with_2_in_one_line() -> None:
    result = compat(f"127.0.0.1:{free_ports()}")
    assert result.exit_code == 2
    assert result.stderr.startswith("vllama: no server answers at http://127.0.0.1:")
    assert result.stderr.endswith(" (refuses connections: not started yet, or gone); start one, or correct the URL\n")
    assert len(result.stderr.splitlines()) == 1


def test_a_server_that_is_not_ollama_exits_with_2_without_a_report(server: Serve) -> None:
    result = compat(server({"/": b"<html>", "/api/tags": b"<html>"}))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(" is not an Ollama server: 200 and no JSON for /api/tags; correct the URL\n")


def test_a_server_that_never_answers_exits_with_2_and_names_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = compat(f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.2")
    assert result.exit_code == 2
    assert "does not answer in time; wait longer with --timeout, or correct the URL" in result.stderr


def test_list_prints_all_rules_without_a_server() -> None:
    result = compat("--list")
    assert result.exit_code == 0
    rows = result.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [rule.name for rule in RULES]
    assert "not implemented: only the ollama command reads it" in rows[199]
    assert "not observable" in rows[184]
    assert "check" in rows[0]


def test_a_named_model_must_exist(server: Serve) -> None:
    result = compat(server({"/api/tags": TAGS}), "--model", "absent")
    assert result.exit_code == 2
    assert "has no model absent; name one that it lists" in result.stderr


def test_capabilities_missing_in_tags_are_read_from_show(server: Serve) -> None:
    old = json.dumps({"models": [{"name": "old:latest"}]}).encode()
    shown = json.dumps({"capabilities": ["embedding"]}).encode()
    url = server({"/": BANNER, "/api/tags": old, "/api/show": shown})
    report = json.loads(compat(url, "--rule", "R002", "--json").stdout)
    assert report["models"] == {"embed": "old:latest"}


def test_a_server_that_requires_a_key_exits_with_2_without_one() -> None:
    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as locked:
        threading.Thread(target=locked.serve_forever, args=(0.01,), daemon=True).start()
        result = compat(f"127.0.0.1:{locked.server_port}")
        locked.shutdown()
    assert result.exit_code == 2
    assert "give one with --key" in result.stderr
