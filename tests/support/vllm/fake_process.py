"""A program that starts, answers and dies as vLLM does, in a tenth of a second: for tests of what watches it.

    python fake_process.py serve MODEL --host H --port P [--served-model-name N…] [--fake-…]

It starts an "engine" process in its group that SIGTERM does not end, as vLLM's own do not end when their
parent is killed. A chat or completion request streams one token every --fake-interval seconds. On SIGTERM it
lets running requests finish, then ends its engine and itself. It has no model and knows nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

ENGINE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--fake-startup", type=float, default=0.0)
    parser.add_argument("--fake-interval", type=float, default=0.02)
    parser.add_argument("--fake-die", metavar="TEXT", help="end with code 1 and this text instead of serving")
    parser.add_argument("--fake-die-if", metavar="FILE", help="the same, but only where this file exists")
    parser.add_argument("--fake-deaf", action="store_true", help="ignore SIGTERM")
    return parser.parse_known_args(argv)[0]


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.names = options.served_model_name or [options.model]
        self.root = options.model
        self.interval = options.fake_interval
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.tokens = 0
        self.dead = self.asleep = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            length = next(
                (int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length")), 0
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            await self.answer(method, path, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, method: str, path: str, body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        if method == "POST" and path in ("/v1/chat/completions", "/v1/completions"):
            await self.generate(body, writer)
            return
        known: dict[str, Callable[[], tuple[int, str]]] = {
            "/health": lambda: (503 if self.dead else 200, ""),
            "/version": lambda: (200, json.dumps({"version": "0.0.0+fake"})),
            "/metrics": lambda: (200, self.metrics()),
            "/v1/models": lambda: (200, json.dumps({"data": [self.model(name) for name in self.names]})),
            "/v1/completions": lambda: (405, ""),
            "/v1/chat/completions": lambda: (405, ""),
            "/fake/die-slowly": self.die_slowly,
            "/fake/sleep": self.sleep,
        }
        status, text = known.get(path, lambda: (404, '{"detail":"Not Found"}'))()
        send(writer, status, text)
        await writer.drain()

    async def generate(self, body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        count = int(str(body.get("max_tokens", 16)))
        self.running += 1
        self.idle.clear()
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for number in range(count):
                self.tokens += 1
                choice = {"index": 0, "text": f" {number}", "delta": {"content": f" {number}"}}
                writer.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
                await writer.drain()
                if count > 4:
                    await asyncio.sleep(self.interval)
            writer.write(b"data: [DONE]\n\n")
            await writer.drain()
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def die_slowly(self) -> tuple[int, str]:
        """The engine is dead, the HTTP server is still there for a moment."""
        self.dead = True
        asyncio.get_running_loop().call_later(1.5, os._exit, 1)
        return 200, ""

    def sleep(self) -> tuple[int, str]:
        self.asleep = True
        return 200, ""

    def metrics(self) -> str:
        labels = f'{{engine="0",model_name="{self.names[0]}"}}'
        return (
            f"vllm:num_requests_running{labels} {self.running}.0\nvllm:num_requests_waiting{labels} 0.0\n"
            f'vllm:engine_sleep_state{{engine="0",sleep_state="awake"}} {int(not self.asleep)}.0\n'
            f"vllm:kv_cache_usage_perc{labels} 0.5\nvllm:generation_tokens_total{labels} {self.tokens}.0\n"
        )

    def model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "root": self.root, "parent": None, "max_model_len": 2048}


def send(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode())


async def main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if options.fake_deaf else stop.set)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), options.fake_startup)
        return
    server = Server(options)
    listener = await asyncio.start_server(server.handle, options.host, options.port)
    await stop.wait()
    listener.close()
    await server.idle.wait()


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    dies = chosen.fake_die and (not chosen.fake_die_if or os.path.exists(chosen.fake_die_if))
    if dies:
        sys.exit(f"Traceback (most recent call last):\n  File x\nValueError: {chosen.fake_die}")
    engine = subprocess.Popen([sys.executable, "-c", ENGINE])
    asyncio.run(main(chosen))
    engine.kill()
    engine.wait()
