"""No output of a command holds any part of a password, whatever form the address has. An unusable one is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.ports import free_ports
from vllama_pool.router.cli.main import main

FIRST, LAST = "hunter", "tiger"
"""The ends of each password; neither may be shown."""
PASSWORDS = [
    "",
    "@",
    ":",
    "/",
    "%",
    "#",
    "?",
    "&",
    "=",
    " ",
    "@@:",
    "%40",
    "/0?db=1&x=",
    "[",
    "]",
    "\\",
    "'",
    '"',
    "é",
    ";",
]
FORMS = [
    "redis://:{p}@{h}",
    "redis://user:{p}@{h}/0",
    "rediss://user:{p}@{h}/0",
    "unix://user:{p}@/no/such.sock",
    "/no/such.sock?password={p}",
    "redis://{h}?password={p}",
    "redis://{h}/0?username=user&password={p}",
    "redis://{h}?username={p}&password={p}",
    "redis://{h}?passwd={p}",
    "redis://{h}?db={p}",
    "redis://{h}/{p}",
    "redis://[::1]:1?password={p}",
    "redis://user:{p}@[::1]:1",
    "redis://user:{p}@[::1",
    "redis://user:{p}@",
    "redis://user:{p}@:1",
    "redis://:{p}@{h}?decode_responses=true",
    "redis+sentinel://:{p}@{h}/primary",
    "sentinel://:{p}@a:1,b:2",
    "redis://:{p}@a:1,b:2",
    "http://user:{p}@{h}",
    "redis:/:{p}@{h}",
    "user:{p}@{h}",
    "redis://:{p}@no.such.host.invalid",
    "rediss://{h}?ssl_certfile=/no&ssl_keyfile=/no&ssl_password={p}",
]


def addresses(closed: str) -> list[str]:
    """Each form with two passwords; the unit tests of the parser try all combinations."""
    count = len(PASSWORDS)
    pairs = [(form, PASSWORDS[number * step % count]) for step in (1, 7) for number, form in enumerate(FORMS)]
    return [form.format(p=FIRST + middle + LAST, h=closed) for form, middle in pairs]


def run(words: list[str], env: dict[str, str | None]) -> tuple[int, str]:
    """Run a command in this process. Return exit code and all output."""
    unset = {name: None for name in os.environ if name.startswith(("VLLAMA_", "OLLAMA_", "REDIS_"))}
    result = CliRunner().invoke(main, words, env={**unset, "VLLAMA_REDIS_URL": None, **env})
    assert isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_serve_shows_no_part_of_a_password_and_one_line(tmp_path: Path) -> None:
    closed = f"127.0.0.1:{free_ports()}"
    environ = {
        "VLLAMA_STATE_DIR": str(tmp_path),
        "VLLAMA_FLEET_SECRET": "0123456789abcdef",
        "VLLAMA_REDIS_WAIT": "0",
    }
    for address in addresses(closed):
        code, output = run(["serve", "--port", "0"], {**environ, "VLLAMA_LOG_LEVEL": "debug", "REDIS_URL": address})
        assert code == 1, (address, output)
        assert output.startswith("vllama: "), (address, output)
        assert len(output.splitlines()) == 1, (address, output)
        assert FIRST not in output, (address, output)
        assert LAST not in output, (address, output)
        assert ";" in output


@pytest.mark.parametrize("middle", PASSWORDS)
def test_other_commands_and_misspelt_options_show_no_part_of_a_password(tmp_path: Path, middle: str) -> None:
    secret = FIRST + middle + LAST
    worker_url, redis_url = f"http://user:{secret}@127.0.0.1:1", f"redis://:{secret}@127.0.0.1:1"
    file = tmp_path / "routing.yaml"
    quoted = worker_url.replace("\\", "\\\\").replace('"', '\\"')
    environ = {"VLLAMA_STATE_DIR": str(tmp_path)}
    commands = [
        ["serve", f"--redis-ulr={redis_url}"],
        ["serve", redis_url],
        ["serve", "--model", "m", "--and", "--model", "n", f"--redis-url={redis_url}"],
        ["serve", "--port", redis_url],
        ["worker", "--attach", worker_url],
        ["worker", "--attach", f"http://127.0.0.1:1?api_key={secret}"],
        ["worker", "--redis-url", redis_url + "?x=1", "--model", "m"],
        ["ps", "--url", worker_url],
        ["ps", redis_url],
        ["compat", worker_url],
        ["check", redis_url],
        [redis_url],
    ]
    for text in (f'workers: "{quoted}"', f'workers: ["{quoted}"]', f'workers: [{{url: "{quoted}"}}]', f'"{quoted}": x'):
        file.write_text(text + "\n")
        _, output = run(["check", str(file)], environ)
        assert FIRST not in output, (text, output)
        assert LAST not in output, (text, output)
    for words in commands:
        code, output = run(words, environ)
        assert code, words
        assert FIRST not in output, (words, output)
        assert LAST not in output, (words, output)
        assert "Traceback" not in output


@pytest.mark.system
def test_no_process_of_serve_or_worker_prints_a_password(tmp_path: Path) -> None:
    """Whole processes at debug level, with a registry that refuses the password."""
    port = free_ports()
    address = f"redis://user:{FIRST}@:%2F{LAST}@127.0.0.1:{port}/0"
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_", "REDIS_"))}
    env = {
        **unset,
        "VLLAMA_STATE_DIR": str(tmp_path),
        "VLLAMA_FLEET_SECRET": "0123456789abcdef",
        "VLLAMA_LOG_LEVEL": "debug",
        "VLLAMA_REDIS_WAIT": "1",
        "REDIS_URL": address,
    }
    serve = [sys.executable, "-m", "vllama_pool.router.cli.main", "serve", "--port", "0"]
    done = subprocess.run(serve, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert f"127.0.0.1:{port}" in output
    assert FIRST not in output
    assert LAST not in output
