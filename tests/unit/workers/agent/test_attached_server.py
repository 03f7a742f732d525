"""An attached server: what is announced of its abilities."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.support.until import auntil
from vllama_pool.workers.agent.attached_server import AttachedServer
from vllama_pool.workers.agent.managed_server import ServerInfo
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerState
from vllama_pool.workers.vllm.flags import Flags


class FakeVllm:
    """A server on another host, which may be too busy for the chats that show its abilities."""

    def __init__(self, *, busy: bool = False, status: int = 200) -> None:
        self.busy = busy
        self.status = status
        """Of the first chats, which warm it up."""
        self.questions = 0
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/health":
                return httpx.Response(200)
            case "/v1/models":
                return httpx.Response(200, json={"data": [{"id": "m", "root": "org/m", "max_model_len": 2048}]})
            case "/metrics":
                return httpx.Response(200, text="vllm:num_requests_running 0.0\n")
            case "/v1/completions":
                return httpx.Response(405)
            case "/v1/chat/completions" if json.loads(request.content)["max_tokens"] == 2:
                return httpx.Response(self.status)
            case "/v1/chat/completions":
                self.questions += 1
                return httpx.Response(503) if self.busy else httpx.Response(200, json={"choices": []})
        return httpx.Response(404)


class Announcements:
    """The models of an agent's records, in order."""

    def __init__(self) -> None:
        self.models: list[ModelInfo] = []

    def ready(self, server: ServerInfo, after: float) -> None:
        self.models += server.models

    def described(self, server: ServerInfo) -> None:
        self.models += server.models

    def changed(self, state: WorkerState, note: str) -> None: ...


class Serving:
    """Serves until the end of the block. `may_ask` lets it ask again."""

    def __init__(self, vllm: FakeVllm, hub: Path) -> None:
        self.announced = Announcements()
        self.may_ask = asyncio.Event()
        self.loads: list[LoadReport] = []
        monitor = Monitor(vllm.client, self.loads.append)
        env = {"HF_HOME": str(hub)}
        self._server = AttachedServer(
            "http://10.0.0.5:8000", vllm.client, monitor, self.announced, flags=Flags([]), env=env, sleep=self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        await self.may_ask.wait()

    async def __aenter__(self) -> Announcements:
        self._task = asyncio.get_running_loop().create_task(self._server.serve())
        await auntil(lambda: self.announced.models, 10, "the announcement")
        return self.announced

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_abilities_of_a_busy_server_are_undetected_until_it_answers(tmp_path: Path) -> None:
    vllm = FakeVllm(busy=True)
    serving = Serving(vllm, tmp_path)
    async with serving as announced:
        (first,) = announced.models
        assert first.capabilities == ("completion",)
        assert set(first.undetected) == {"tools", "thinking", "vision"}
        vllm.busy = False
        serving.may_ask.set()
        await auntil(lambda: len(announced.models) > 1, 10, "the second announcement")
        assert set(announced.models[1].capabilities) == {"completion", "tools", "vision"}
        assert announced.models[1].undetected == ()
        assert vllm.questions == 3, "one refused, then one with a tool and one with an image"


@pytest.mark.parametrize("status", [429, 400])
async def test_a_server_that_refuses_the_first_chat_is_asked_for_its_abilities(status: int, tmp_path: Path) -> None:
    vllm = FakeVllm(status=status)
    async with Serving(vllm, tmp_path) as announced:
        assert set(announced.models[0].capabilities) == {"completion", "tools", "vision"}
        assert announced.models[0].undetected == ()
