"""The upstream client's interface over httpx: the reference that ours is tested against."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import httpx

from vllama_pool.router.upstream.interface import (
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    MalformedResponse,
    Sink,
    TransportError,
)

EARLY_END = ("disconnected", "closed connection")


class HttpxClient:
    def __init__(self) -> None:
        self._clients: dict[ssl.SSLContext | None, httpx.AsyncClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        connect_timeout: float,
    ) -> HttpxResponse:
        client = self._client(endpoint.tls)
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        url = f"http{'s' if endpoint.tls else ''}://{host}:{endpoint.port}{endpoint.prefix}{path}"
        if endpoint.authorization is not None:
            headers = {**headers, "authorization": endpoint.authorization}
        extensions = {}
        if endpoint.server_name is not None:
            headers = {**headers, "host": httpx.URL(url).copy_with(host=endpoint.server_name).netloc.decode()}
            extensions["sni_hostname"] = endpoint.server_name
        try:
            request = client.build_request(
                method,
                url,
                headers=headers,
                content=body,
                timeout=httpx.Timeout(None, connect=connect_timeout),
                extensions=extensions,
            )
            response = await client.send(request, stream=True)
        except (httpx.InvalidURL, httpx.LocalProtocolError) as error:
            raise ValueError(str(error)) from error
        except httpx.TransportError as error:
            raise _translated(error) from error
        return HttpxResponse(self, response)

    async def aclose(self) -> None:
        await asyncio.gather(*self._closing)
        for client in self._clients.values():
            await client.aclose()

    def close_later(self, response: httpx.Response) -> None:
        task = asyncio.get_running_loop().create_task(response.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _client(self, tls: ssl.SSLContext | None) -> httpx.AsyncClient:
        if tls not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4)
            self._clients[tls] = httpx.AsyncClient(verify=tls or False, trust_env=False, limits=limits)
            self._clients[tls].headers.clear()
        return self._clients[tls]


class HttpxResponse:
    def __init__(self, client: HttpxClient, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = dict(response.headers.items())
        self._client = client
        self._response = response
        self._chunks = response.aiter_raw()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def read(self) -> bytes:
        try:
            return await anext(self._chunks, b"")
        except httpx.TransportError as error:
            raise _translated(error) from error

    def attach(self, sink: Sink) -> None:
        self._pump = asyncio.get_running_loop().create_task(self._push(sink))

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
        self._client.close_later(self._response)

    async def _push(self, sink: Sink) -> None:
        try:
            while chunk := await self.read():
                await self._flowing.wait()
                if self._closed:
                    return
                sink.data(chunk)
        except TransportError as error:
            if not self._closed:
                sink.lost(error)
        else:
            if not self._closed:
                sink.eof()


def _translated(error: httpx.TransportError) -> TransportError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectFailed(str(error))
    if isinstance(error, httpx.RemoteProtocolError) and not any(words in str(error) for words in EARLY_END):
        return MalformedResponse(str(error))
    return ConnectionLost(str(error))
