"""uvicorn's HTTP protocol with our cycle of request and response."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vllama_pool.router.server.request_cycle import RequestCycle


class CycleProtocol(HttpToolsProtocol):
    """Makes a `RequestCycle` of each request. No upgrades, root path or limit of concurrency."""

    scope: Any

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = query
        self.begin_request(keep_alive=version != "1.0" and self.parser.should_keep_alive())

    def begin_request(self, *, keep_alive: bool) -> None:
        """Serve the request of `scope`, after those before it."""
        previous = self.cycle
        self.cycle = cycle = RequestCycle(self.scope, self, keep_alive=keep_alive)
        if previous is None or previous.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
