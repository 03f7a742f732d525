"""The upstream client's interface over httpx: the reference that ours is tested against."""

from __future__ import annotations

import asyncio
import ssl

import h11
import httpx

from vllama_pool.router.upstream.interface import (
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    Headers,
    MalformedResponse,
    Sink,
    TransportError,
)

FINISH_TIMEOUT = 0.1
"""Seconds."""
EARLY_END = ("disconnected", "closed connection")


class HttpxClient:
    def __init__(self) -> None:
        self._clients: dict[ssl.SSLContext | None, httpx.AsyncClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        headers: Headers,
        request_id: str,
        body: bytes,
        sink: Sink,
        connect_timeout: float,
    ) -> HttpxExchange:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        url = f"http{'s' if endpoint.tls else ''}://{host}:{endpoint.port}{endpoint.prefix}{path}"
        sent = [*headers, ("x-request-id", request_id)]
        if endpoint.authorization is not None:
            sent.append(("authorization", endpoint.authorization))
        extensions = {}
        try:
            if endpoint.server_name is not None:
                sent.append(("host", httpx.URL(url).copy_with(host=endpoint.server_name).netloc.decode()))
                extensions["sni_hostname"] = endpoint.server_name
            client = self._client(endpoint.tls)
            timeout = httpx.Timeout(None, connect=connect_timeout)
            request = client.build_request(
                method, url, headers=sent, content=body, timeout=timeout, extensions=extensions
            )
            h11.Request(method=method, target=request.url.raw_path, headers=request.headers.raw)
        except (httpx.InvalidURL, h11.LocalProtocolError) as error:
            raise ValueError(str(error)) from error
        return HttpxExchange(self, client, request, sink)

    async def aclose(self) -> None:
        await asyncio.gather(*self._closing, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    def close_later(self, task: asyncio.Task[None]) -> None:
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _client(self, tls: ssl.SSLContext | None) -> httpx.AsyncClient:
        if tls not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4)
            self._clients[tls] = httpx.AsyncClient(verify=tls or False, trust_env=False, limits=limits)
            self._clients[tls].headers.clear()
        return self._clients[tls]


class HttpxExchange:
    """Pushes from a task."""

    def __init__(self, client: HttpxClient, http: httpx.AsyncClient, request: httpx.Request, sink: Sink) -> None:
        self._client = client
        self._http = http
        self._sink: Sink | None = sink
        self._response: httpx.Response | None = None
        self._loop = asyncio.get_running_loop()
        self.last_heard = self._loop.time()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._closed = False
        self._pump = self._loop.create_task(self._push(request))

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def fail(self, error: TransportError) -> None:
        sink = self._sink
        self.close()
        if sink is not None:
            sink.lost(error)

    def finish(self) -> None:
        self._sink = None
        self.resume()
        self._loop.call_later(FINISH_TIMEOUT, self.close)

    def close(self) -> None:
        self._sink = None
        if self._closed:
            return
        self._closed = True
        if self._pump is not asyncio.current_task() and not self._pump.done():
            self._pump.cancel()
            self._client.close_later(self._pump)
        if self._response is not None:
            self._client.close_later(self._loop.create_task(self._response.aclose()))

    async def _push(self, request: httpx.Request) -> None:
        try:
            self._response = response = await self._http.send(request, stream=True)
            if self._sink is not None:
                self._sink.head(response.status_code, dict(response.headers.items()))
            if not self._closed:
                await self._push_body(response)
        except httpx.TransportError as error:
            self._end(_translated(error))
        else:
            self._end(None)

    async def _push_body(self, response: httpx.Response) -> None:
        async for chunk in response.aiter_raw():
            self.last_heard = self._loop.time()
            await self._flowing.wait()
            if self._closed:
                return
            if self._sink is not None:
                self._sink.data(chunk)

    def _end(self, error: TransportError | None) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if error is None:
            sink.eof()
        else:
            sink.lost(error)


def _translated(error: httpx.TransportError) -> TransportError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectFailed(str(error))
    if isinstance(error, httpx.RemoteProtocolError) and not any(words in str(error) for words in EARLY_END):
        return MalformedResponse(str(error))
    return ConnectionLost(str(error))
