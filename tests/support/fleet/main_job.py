"""`vllama serve` and `vllama worker` over real vLLM, as programs of their own and as `make run` starts them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.local.package_managers import ROOT
from deploy.local.run import CHAT_MODEL, plan_launch
from tests.support.ports import free_ports
from tests.support.until import until
from vllama_pool.router.cli.commands.worker_groups import AND
from vllama_pool.workers.process.lifeline import die_with_parent

MODEL = CHAT_MODEL
PLAIN = "tiny-plain"
"""The model without a chat template."""
SLOTS = 8
"""Of each SmolLM2 worker."""
READY_TIMEOUT = 400.0
"""Seconds for three vLLMs that load side by side on two busy cores."""
STOP_TIMEOUT = 45.0
MARK = "TEST_RUN_OF_VLLAMA"
VLLAMA = str(ROOT / ".venv" / "bin" / "vllama")

NUMBERS = "Write all numbers from one to five hundred, separated by commas."

Json = dict[str, Any]
Figures = Callable[[str, object], None]
"""pytest's `record_property`."""


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process still runs; a zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Program:
    """A `vllama` command that runs until it is told to stop. Whatever it starts is remembered, as far as it was
    looked at: by descent and by a mark in the environment."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._seen: set[psutil.Process] = set()
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                words,
                env={**_environ(), **env, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_fresh(),  # noqa: PLW1509  it takes no locks
            )
        self.process = psutil.Process(self._popen.pid)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def says(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        """Its children and theirs, as they are now."""
        found = _tree(self.process)
        self._seen.update(found)
        return found

    def find(self, *words: str) -> psutil.Process | None:
        """The descendant nearest to it with all these words on its command line."""
        return next((one for one in self.descendants() if _has(one, words)), None)

    def signal(self, number: signal.Signals) -> None:
        self.descendants()
        self._popen.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        return self._popen.wait(timeout)

    def left(self) -> list[str]:
        """What still runs of all that it started, itself included."""
        marked = {one for one in psutil.process_iter() if self._is_marked(one)}
        return sorted(str(one) for one in self._seen | marked | {self.process} if is_alive(one))

    def end(self) -> None:
        """End it, whatever state it is in. Raises AssertionError if anything stays behind."""
        if self.alive:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        self.wait_gone(15)

    def wait_gone(self, timeout: float) -> None:
        """Raises AssertionError that says what is left."""
        try:
            until(lambda: not self.left(), timeout, interval=0.1)
        except AssertionError:
            raise AssertionError(f"after {timeout:g} s there still are {self.left()}") from None

    def _is_marked(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return process.environ().get(MARK) == self._mark
        return False


def _fresh() -> Callable[[], None]:
    """It goes when we do, and hears SIGINT even where we are a background job, for which shells ignore it."""
    tie = die_with_parent(signal.SIGTERM)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        tie()

    return prepare


def _environ() -> dict[str, str]:
    ours = ("VLLAMA_", "OLLAMA_", "REDIS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _tree(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _has(process: psutil.Process, words: Sequence[str]) -> bool:
    """Whether all these words, or files of these names, are on its command line. Some write theirs into one."""
    with contextlib.suppress(psutil.Error):
        line = " ".join(process.cmdline()).split()
        return all(any(part == word or part.endswith(f"/{word}") for part in line) for word in words)
    return False


# --- programs


class Serve(Program):
    """`vllama serve`."""

    @property
    def url(self) -> str:
        """Where it listens, once it has said so."""
        found = re.search(r"^router +(http://\S+)", self.log.read_text(errors="replace"), re.MULTILINE)
        return found[1] if found else ""

    def agent(self, worker: str) -> psutil.Process:
        """The agent of one of its workers."""
        found = self.find("vllama_pool.router.cli.main", worker)
        assert found is not None, f"{worker} has no agent"
        return found

    def vllm(self, worker: str) -> psutil.Process:
        """The server of one of its workers, which leads a process group."""
        guardian = next(one for one in self.agent(worker).children() if _has(one, ["guardian.py"]))
        return guardian.children()[0]

    def came_up(self, worker: str) -> int:
        """How often it has said that a worker became ready."""
        return len(re.findall(rf"^worker +{worker}  ready after", self.log.read_text(errors="replace"), re.MULTILINE))

    @property
    def valkey(self) -> psutil.Process | None:
        return self.find("valkey-server")

    def request(self, name: str) -> Json:
        """What it logs of one request, once it has."""
        until(lambda: name in self.requests(), 5, f"request {name} is logged")
        return self.requests()[name]

    def requests(self) -> dict[str, Json]:
        """Its log of requests, by their ids."""
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if '"event":"request"' in line and line.endswith("\n")]
        return {record["id"]: record for record in records}


class MainJob:
    """A fleet: `vllama serve` with two workers for SmolLM2, and `vllama worker` with a model that cannot chat.

    The worker is started first, before there is a router or a registry. What a test has ended is started anew
    for the next one by `whole`.
    """

    def __init__(self, folder: Path, plain: Path) -> None:
        self._folder = folder
        self.plain = plain
        self.state_dir = folder / "state"
        self.serve: Serve | None = None
        self.worker: Program | None = None
        self.seconds: list[float] = []
        """How long each start took, from nothing to all ready."""

    def whole(self, *, plain: bool = True) -> Fleet:
        """Start again whatever has ended, and wait until all workers are ready. `plain`: `vllama worker` too."""
        begun, starting = time.monotonic(), self.serve is None
        if self.worker is None or (plain and not self.worker.alive):
            self.worker = Program(self._worker_words(), self._env, self._folder / "worker.log")
            worker = self.worker
            until(lambda: worker.says("loading"), 30, "the worker begins to load")
        if self.serve is None or not self.serve.alive:
            self.serve = self._start_serve()
        fleet = Fleet(self.serve, self.worker, self)
        workers = ["smollm2-0", "smollm2-1", *(["plain"] if plain else [])]
        until(lambda: self._looks_whole(fleet, workers), READY_TIMEOUT, "all workers are ready", interval=0.25)
        if starting:
            self.seconds.append(time.monotonic() - begun)
        return fleet

    def second_serve(self, *words: str) -> Serve:
        """Another `vllama serve` of the same state directory."""
        command = [VLLAMA, "serve", "--port", "0", "--vllm-port", str(free_ports()), *words]
        return Serve(command, self._env, self._folder / "second.log")

    def end(self) -> None:
        for program in (self.serve, self.worker):
            if program is not None:
                program.end()

    def tail(self) -> str:
        """The ends of the logs."""
        logs = sorted(self._folder.glob("*.log")) + sorted(self.state_dir.glob("logs/*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    @property
    def _env(self) -> dict[str, str]:
        launch = plan_launch((), os.cpu_count() or 1, "", "0")
        return {**launch.env, "VLLAMA_STATE_DIR": str(self.state_dir)}

    def _start_serve(self) -> Serve:
        launch = plan_launch((), os.cpu_count() or 1, "", "0", ["--vllm-port", str(free_ports(2))])
        chat = launch.argv[: launch.argv.index(AND)]  # the worker that embeds would take the place of the third
        return Serve(chat, self._env, self._folder / f"serve-{len(self.seconds)}.log")

    def _worker_words(self) -> list[str]:
        words = [VLLAMA, "worker", "--model", str(self.plain), "--name", "plain", "--port", str(free_ports())]
        return [*words, "--enforce-eager", "--max-num-seqs", str(SLOTS)]

    def _looks_whole(self, fleet: Fleet, workers: Sequence[str]) -> bool:
        assert self.serve is not None
        if not self.serve.alive or ("plain" in workers and not fleet.worker.alive):
            raise AssertionError(f"it ended:\n{self.tail()}")
        states = fleet.states()
        return bool(fleet.url) and all(states.get(worker) == "ready" for worker in workers)


@dataclass
class Fleet:
    """A fleet that runs, as clients and ops see it."""

    serve: Serve
    worker: Program
    job: MainJob

    @property
    def url(self) -> str:
        return self.serve.url

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=10).raise_for_status().json()

    def workers(self) -> dict[str, Json]:
        """What `GET /admin/workers` says, by worker."""
        return {worker["id"]: worker for worker in self.get("/admin/workers")["workers"]}

    def states(self) -> dict[str, str]:
        try:
            return {name: worker["state"] for name, worker in self.workers().items()}
        except httpx.HTTPError:
            return {}

    def table(self) -> str:
        """What `vllama ps` prints."""
        words = [VLLAMA, "ps", "--url", self.url]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, env=_environ()).stdout

    def row(self, worker: str) -> str:
        """The line of one worker in `vllama ps`."""
        return next((line for line in self.table().splitlines() if line.split()[:1] == [worker]), "")


def _gauge(page: str, state: str) -> int:
    return sum(int(float(n)) for n in re.findall(rf"^vllm:num_requests_{state}\{{.*\}} (\S+)", page, re.MULTILINE))


# --- requests


@dataclass
class Stream:
    """One streamed request, and what has come of it so far."""

    id: str
    status: int = 0
    lines: list[Json] = field(default_factory=list)

    @property
    def has_content(self) -> bool:
        return any(_text(line) for line in self.lines)

    @property
    def complete(self) -> bool:
        """Whether it ended as an answer should, without a word of an error."""
        return bool(self.lines) and self.lines[-1].get("done") is True and not self.errors

    @property
    def errors(self) -> list[str]:
        return [line["error"] for line in self.lines if "error" in line]

    @property
    def tokens(self) -> int:
        return int(self.lines[-1].get("eval_count", 0)) if self.lines else 0


def _text(line: Json) -> str:
    return str(line.get("response") or line.get("message", {}).get("content") or "")


def chat_body(tokens: int, *, stream: bool = True, model: str = MODEL) -> Json:
    """A request whose answer is `tokens` long (up to 1500): SmolLM2 does not tire of these numbers."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": NUMBERS}],
        "stream": stream,
        "options": {"num_predict": tokens, "temperature": 0},
    }


def generate_body(tokens: int, model: str) -> Json:
    """For the model that cannot chat: it says "oooo" (up to 2000 times), where other prompts make it say half a
    character for ever."""
    return {"model": model, "prompt": "hello", "options": {"num_predict": tokens, "temperature": 0}}


def client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, timeout=300, limits=limits)


async def follow(http: httpx.AsyncClient, url: str, body: Json, stream: Stream) -> None:
    """Send a request and fill `stream` as its answer comes."""
    headers = {"x-request-id": stream.id}
    async with http.stream("POST", url, json=body, headers=headers) as answer:
        stream.status = answer.status_code
        async for line in answer.aiter_lines():
            stream.lines.append(json.loads(line))


@contextlib.asynccontextmanager
async def streaming(url: str, body: Json, count: int, name: str) -> AsyncIterator[Streaming]:
    """So many streams at once; yields them with their tasks. What still runs at the end is dropped."""
    streams = [Stream(f"{name}-{number}") for number in range(count)]
    async with client() as http:
        tasks = [asyncio.create_task(follow(http, url, body, stream)) for stream in streams]
        try:
            yield streams, tasks
        finally:
            await drop(tasks)


Streaming = tuple[list[Stream], list[asyncio.Task[None]]]


async def drop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Leave: the connections are closed."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


Look = Callable[[], Awaitable[tuple[int, int]]]
"""Requests running and waiting inside vLLM by its own gauges."""


@contextlib.asynccontextmanager
async def looking(fleet: Fleet) -> AsyncIterator[Look]:
    """Yields a look into the vLLMs of SmolLM2, together, that costs little more than their pages."""
    workers = (await asyncio.to_thread(fleet.workers)).values()
    urls = [f"{worker['url']}/metrics" for worker in workers if MODEL in worker["models"]]
    async with client() as http:

        async def look() -> tuple[int, int]:
            pages = [page.text for page in await asyncio.gather(*map(http.get, urls))]
            return sum(_gauge(page, "running") for page in pages), sum(_gauge(page, "waiting") for page in pages)

        yield look


@dataclass
class Asked:
    """What became of requests that were sent one after the other."""

    statuses: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0


class BackgroundLoad:
    """Clients that ask again and again for as long as it is entered, and look whether the model stays listed."""

    def __init__(self, fleet: Fleet, clients: int, *, tokens: int = 5, pause: float = 0.2) -> None:
        self.asked = Asked()
        self.unlisted = 0
        """How often `GET /api/ps` did not name the model."""
        self._fleet = fleet
        self._clients = clients
        self._tokens = tokens
        self._pause = pause
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> BackgroundLoad:
        self._http = client()
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def _ask(self, number: int) -> None:
        """Streamed and not, in turn. Ends by itself after the answer under way."""
        url, stream = self._fleet.url, bool(number % 2)
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                answer = await self._http.post(f"{url}/api/chat", json=chat_body(self._tokens, stream=stream))
                listed = (await self._http.get(f"{url}/api/ps")).json()["models"]
            except httpx.HTTPError as error:
                self.asked.failures.append(f"{type(error).__name__}: {error}")
                continue
            self.asked.slowest = max(self.asked.slowest, time.monotonic() - begun)
            self.asked.statuses.append(answer.status_code)
            if answer.status_code != 200 or json.loads(answer.text.splitlines()[-1]).get("done") is not True:
                self.asked.failures.append(answer.text[-500:])
            self.unlisted += MODEL not in [model["name"] for model in listed]
            stream = not stream
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._pause)


async def keep_killing(find: Callable[[], psutil.Process | None], seconds: float) -> int:
    """Kill what `find` finds, again and again as it comes back, for so many seconds. Returns how often."""
    end, killed = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        found = find()
        if found is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()
                killed += 1
        await asyncio.sleep(0.05)
    return killed
