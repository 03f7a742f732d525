"""`vllama serve` whose routing file is saved again and again while clients stream."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.support.fleet.programs import Serve
from tests.support.ports import free_ports
from tests.support.until import auntil, until
from vllama_pool.config.routing.table import load

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")
PROCESSES = 3
FIRST = "models: {m: {serve: x}}\n"

ANSWER = 20
"""Tokens."""
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": ANSWER}}
REQUEST = (
    "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    f"Content-Length: {len(json.dumps(BODY))}\r\n\r\n{json.dumps(BODY)}"
).encode()

States = dict[str, Any]
"""`/admin/routing`: the state of the file by process."""


@contextmanager
def running(folder: Path, file: Path, *words: str) -> Iterator[Serve]:
    """Run three router processes with a routing file, and the simulated models x and y."""
    model = ["--engine", "simulated", "--max-num-seqs", "512", "--tokens-per-second", "5"]
    options = ["--port", "0", "--processes", str(PROCESSES), "--vllm-port", str(free_ports(2)), "--routing", str(file)]
    models = ["--model", "x", "--name", "x", *model, "--and", "--model", "y", "--name", "y", *model]
    environ = {"VLLAMA_STATE_DIR": str(folder / "state"), "VLLAMA_VLLM": sys.executable}
    serve = Serve([*VLLAMA, "serve", *options, *models, *words], environ, folder / "serve.log")
    try:
        until(lambda: serve.says("ready. Try:") or not serve.alive, 180, "it is ready")
        assert serve.alive, serve.log.read_text()
        yield serve
    finally:
        serve.end()


@asynccontextmanager
async def connected(serve: Serve, file: Path) -> AsyncIterator[Router]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=serve.url, trust_env=False, verify=False, timeout=60, limits=limits) as http:
        yield Router(serve, file, http)


@dataclass
class Router:
    serve: Serve
    file: Path
    http: httpx.AsyncClient

    async def states(self) -> States:
        answer = (await self.http.get("/admin/routing")).raise_for_status()
        found: States = answer.json()
        return found

    async def all_have(self, condition: Callable[[Any], bool], seconds: float, what: str) -> None:
        """Wait until the condition holds for the state of each process."""

        async def have() -> bool:
            states = await self.states()
            return len(states) == PROCESSES and all(map(condition, states.values()))

        await auntil(have, seconds, what, interval=0.05)

    async def all_states(self) -> States:
        """Return the states once every process has answered within the time that the router gives it."""

        async def whole() -> States:
            states = await self.states()
            return states if len(states) == PROCESSES else {}

        return await auntil(whole, 20, "every process to answer")

    async def refuses(self, text: str | None) -> None:
        """Save a text, or delete the file, and wait until every process has refused it."""
        before = {name: state["failures"] for name, state in (await self.all_states()).items()}
        if text is None:
            self.file.unlink()
        else:
            self.file.write_text(text)

        async def refused() -> bool:
            states = await self.states()
            return len(states) == PROCESSES and all(state["failures"] > before[name] for name, state in states.items())

        await auntil(refused, 20, f"{text!r} is refused", interval=0.05)

    async def live(self, seconds: float = 20.0) -> float:
        """Wait until the file as it is now is live everywhere. Return the seconds from its last write until then."""
        revision = load(self.file).revision
        await self.all_have(lambda state: state["revision"] == revision, seconds, f"revision {revision} is live")
        latest = max(state["loaded"] for state in (await self.all_states()).values())
        return float(latest) - self.file.stat().st_mtime

    async def chat(self, model: str = "m", tokens: int = 20) -> list[Any]:
        """Stream an answer, and return its lines."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": tokens}}
        async with self.http.stream("POST", "/api/chat", json=body) as answer:
            return [json.loads(line) async for line in answer.aiter_lines()]


@dataclass
class Clients:
    """Clients that stream one answer after another."""

    router: Router
    complete: int = 0
    broken: list[Any] = field(default_factory=list)
    longest_pause: float = 0.0
    """Seconds between two lines of an answer, of which 0.2 are the model's."""
    leaving: bool = False

    @asynccontextmanager
    async def running(self, number: int) -> AsyncIterator[Clients]:
        async with asyncio.TaskGroup() as group:
            for index in range(number):
                group.create_task(self._run(index / number))
            yield self
            self.leaving = True

    async def _run(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while not self.leaving:
            await self._stream()

    async def _stream(self) -> None:
        """Each line of an answer is an HTTP chunk of its own, so the lines can be told from chunk sizes."""
        address = urlsplit(self.router.serve.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        lines: list[bytes] = []
        try:
            writer.write(REQUEST)
            status = (await reader.readline()).split()[1:2]
            last = 0.0
            while line := await reader.readline():
                if line.startswith(b"{"):
                    now = time.monotonic()
                    self.longest_pause = max(self.longest_pause, now - last if last else 0.0)
                    last = now
                    lines.append(line)
        finally:
            writer.close()
        end = json.loads(lines[-1]) if lines else {}
        if status == [b"200"] and end.get("done") and end.get("eval_count") == ANSWER:
            self.complete += 1
        else:
            self.broken.append((status, end))


# --- ways to save a table

Save = Callable[[Path, str], None]
"""Blocks: it runs in a thread."""


def write(path: Path, text: str) -> None:
    path.write_text(text)


def rename(path: Path, text: str) -> None:
    other = path.with_name("routing.yaml.tmp")
    other.write_text(text)
    other.replace(path)


def write_in_pieces(path: Path, text: str) -> None:
    """Half of a table is a table too: it would be live if it were read."""
    with path.open("w") as out:
        for start in range(0, len(text), 200):
            out.write(text[start : start + 200])
            out.flush()
            time.sleep(0.1)


def table(number: int) -> str:
    """Return a table that sends `m` to x or y in turn, and ends with `m`."""
    others = "".join(f"  other-{number}-{index}: {{serve: {'yx'[index % 2]}}}\n" for index in range(20))
    return f"models:\n{others}  m: {{serve: {'xy'[number % 2]}, aliases: [alias-{number}]}}\n"


BROKEN = (
    "models:\n  m: {serve: x, polcy: least-load}\n",
    "models:\n\tm: {serve: x}\n",
    "models: [\n",
    "",
    "models:\n  m: {serve: x}\n  m: {serve: y}\n",
)


@dataclass
class Measured:
    effects: list[float] = field(default_factory=list)
    """Seconds from a save to its effect in every process."""

    async def exercise(self, router: Router, saves: Sequence[Save | None], period: float) -> None:
        """Save a table for each item, a broken one for None, one in each period at most."""
        for number, save in enumerate(saves, 1):
            due = time.monotonic() + period
            if save is None:
                await self._refuse(router, BROKEN[number % len(BROKEN)])
            else:
                await asyncio.to_thread(save, router.file, table(number))
                self.effects.append(await router.live())
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _refuse(self, router: Router, text: str) -> None:
        before = await router.all_states()
        await router.refuses(text)
        after = await router.all_states()
        assert {name: state["revision"] for name, state in after.items()} == {
            name: state["revision"] for name, state in before.items()
        }
