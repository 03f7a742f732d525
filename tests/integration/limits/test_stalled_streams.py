"""A stream whose client does not read, from the router to the worker."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import httpx

from tests.support.fleet.live import fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated.options import Options

FAST = Options(model="tiny:latest", tokens_per_second=50_000, ttft=0.0, answer_tokens=200_000, max_model_len=300_000)


async def test_a_stream_that_is_not_read_stops_its_worker_and_is_logged(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": FAST}, client_stall=0.5) as running:
        body = json.dumps({"model": "tiny", "prompt": "hello", "options": {"num_predict": 200_000}}).encode()
        head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        url = httpx.URL(running.url)
        await loop.sock_connect(client, (url.host, url.port))
        await loop.sock_sendall(client, head + body)
        await auntil(lambda: bool(running.records()), 30, "the log line")
        (record,) = running.records()
        assert (record["outcome"], record["status"]) == ("client stalled", 200)
        await auntil(lambda: running["a"].running == 0, 10, "the worker to stop")
        page = (await running.http.get("/metrics")).text
        assert 'vllama_outcomes_total{operation="generate",outcome="client stalled"} 1.0' in page
        assert 'vllama_refusals_total{reason="unread"} 1.0' in page
        client.close()
