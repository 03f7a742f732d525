"""`vllama compat`: what it prints, and what its exit code says."""

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
    """Starts a server that answers these paths, and all others with 404, and says where it is."""
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


def compat(*words: str) -> Result:
    return CliRunner().invoke(main, ["compat", *words])


def test_nothing_differs(server: Serve) -> None:
    result = compat(server({"/": BANNER}), "--rule", "R002")
    assert result.exit_code == 0
    assert "as Ollama" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 rule checked: 1 as Ollama, 0 differ"


def test_something_differs(server: Serve) -> None:
    result = compat(server({"/": b"Welcome"}), "--rule", "r002", "--rule", "R185")
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if line.startswith("R002"))
    assert "GET /: expected body Ollama is running; got Welcome" in row
    assert result.stdout.splitlines()[-1].endswith("0 as Ollama, 1 differs; 1 not asked about, --list says why")


def test_what_cannot_be_looked_at_is_skipped(server: Serve) -> None:
    result = compat(server({"/": BANNER, "/api/tags": TAGS}), "--rule", "R096")
    assert result.exit_code == 0
    assert "--thinking-model" in result.stdout
    assert "1 skipped" in result.stdout


def test_machines_are_told_the_same(server: Serve) -> None:
    url = server({"/": b"Welcome", "/api/tags": TAGS, "/api/show": b"{}"})
    result = compat(url, "--rule", "R002", "--json", "--tools-model", "t")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["counts"] == {"differs": 1, "skipped": 0, "same": 0, "unseen": 0}
    assert report["models"] == {"chat": "m:latest", "tools": "t", "unthinking": "m:latest", "toolless": "m:latest"}
    assert [row["rule"] for row in report["rules"]] == ["R002"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "name the server"),
        (["ftp://h"], "is not the URL of a server"),
        (["http://127.0.0.1:1", "--rule", "R999"], "R999 is no rule; they go from R001 to R201"),
    ],
)
def test_what_is_wrong_with_the_words(words: list[str], complaint: str) -> None:
    result = compat(*words)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_nobody_answers() -> None:
    result = compat(f"127.0.0.1:{free_ports()}")
    assert result.exit_code == 2
    assert result.stderr.startswith("vllama: no server answers at http://127.0.0.1:")
    assert result.stderr.endswith(" (Connection refused); start one, or name another\n")
    assert len(result.stderr.splitlines()) == 1


def test_what_answers_but_is_no_ollama_is_not_judged_rule_by_rule(server: Serve) -> None:
    result = compat(server({"/": b"<html>", "/api/tags": b"<html>"}))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(" is no Ollama server: 200 and no JSON for /api/tags; correct the URL\n")


def test_a_server_that_accepts_and_says_nothing_is_told_from_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = compat(f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.2")
    assert result.exit_code == 2
    assert "gives no answer in time; wait longer with --timeout, or name another" in result.stderr


def test_the_rules_are_listed_without_asking_anybody() -> None:
    result = compat("--list")
    assert result.exit_code == 0
    rows = result.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [rule.name for rule in RULES]
    assert "left out: only the model list of /v1 is served so far" in rows[26]
    assert "tested inside" in rows[184]
    assert "check" in rows[0]


def test_a_named_model_has_to_be_there(server: Serve) -> None:
    result = compat(server({"/api/tags": TAGS}), "--model", "absent")
    assert result.exit_code == 2
    assert "has no model absent; name one that it lists" in result.stderr


def test_what_models_can_is_asked_where_the_list_does_not_say(server: Serve) -> None:
    old = json.dumps({"models": [{"name": "old:latest"}]}).encode()
    shown = json.dumps({"capabilities": ["embedding"]}).encode()
    url = server({"/": BANNER, "/api/tags": old, "/api/show": shown})
    report = json.loads(compat(url, "--rule", "R002", "--json").stdout)
    assert report["models"] == {"embed": "old:latest"}


def test_a_server_with_keys_is_not_judged_without_one() -> None:
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
    assert "give a key with --key" in result.stderr
