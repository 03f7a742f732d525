"""Response headers that tell a request's route, for clients that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final
from urllib.parse import quote

from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.routing.rules import Rule
from vllama_pool.router.server.asgi import Headers, Scope, request_headers
from vllama_pool.router.server.request_ids import REQUEST_ID
from vllama_pool.router.server.writer import WRITER, ResponseWriter
from vllama_pool.router.telemetry.request_record import RequestRecord

TRACE: Final = b"x-vllama-trace"
"""The request header: "1" for the headers, "0" for none, whatever the setting says."""
WORKER: Final = b"X-Vllama-Worker"
ATTEMPTS: Final = b"X-Vllama-Attempts"
QUEUE: Final = b"X-Vllama-Queue-Ms"
RULE: Final = b"X-Vllama-Rule"
FALLBACK: Final = b"X-Vllama-Fallback"

HIDDEN: Final = "(another model)"

_EXPOSED: Final = (
    b"access-control-expose-headers",
    b", ".join((REQUEST_ID, WORKER, ATTEMPTS, QUEUE, RULE, FALLBACK)),
)
_MAX_VALUE: Final = 500
"""Bytes of a value."""
_SAFE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def begin_trace(scope: Scope, record: RequestRecord, *, always: bool) -> Trace | None:
    """Return None for a response without the headers. `always`: the setting."""
    headers = request_headers(scope)
    value = headers.get(TRACE)
    wanted = always if value is None else value.strip() == b"1"
    writer: ResponseWriter | None = scope.get(WRITER)
    if not wanted or writer is None:
        return None
    return Trace(record, writer, exposed=b"origin" in headers)


class Trace:
    """Adds the headers to one response, before it starts."""

    def __init__(self, record: RequestRecord, writer: ResponseWriter, *, exposed: bool) -> None:
        """`exposed`: to scripts of another origin."""
        self.rule: Rule | None = None
        """Of the requested name."""
        self.rights: Rights | None = None
        """Of the client's key. Targets outside them are not named."""
        self._record = record
        self._writer = writer
        self._exposed = exposed
        self._added = False

    def __repr__(self) -> str:
        return f"<Trace of {self._record.id}>"

    def add_headers(self) -> None:
        """Call it before the response starts. Idempotent."""
        if not self._added:
            self._added = True
            self._writer.extra_headers = (*self._writer.extra_headers, *self._headers())

    def _headers(self) -> Headers:
        record = self._record
        headers: Headers = []
        if all(name != REQUEST_ID for name, _ in self._writer.extra_headers):
            headers.append((REQUEST_ID, record.id.encode()))  # Ollama's responses have none (R180)
        if record.worker:
            headers.append((WORKER, header_value(record.worker)))
        headers.append((ATTEMPTS, b"%d" % record.attempts))
        headers.append((QUEUE, f"{record.queue_ms:.1f}".encode()))
        if self.rule is not None:
            headers.append((RULE, header_value(_described(self.rule))))
        if record.fallbacks:
            moves = ", ".join(f"{move.reason}: {self._shown(move.target)}" for move in record.fallbacks)
            headers.append((FALLBACK, header_value(moves)))
        if self._exposed:
            headers.append(_EXPOSED)
        return headers

    def _shown(self, target: str) -> str:
        return target if self.rights is None or self.rights.allows(target) else HIDDEN


class TracedWriter:
    """A client's writer whose response begins with the headers of a trace."""

    def __init__(self, writer: ClientWriter, trace: Trace) -> None:
        self._writer = writer
        self._trace = trace

    def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._trace.add_headers()
        self._writer.start(status, headers)

    def write(self, data: bytes, *, last: bool = False) -> bool:
        return self._writer.write(data, last=last)

    async def drained(self) -> None:
        await self._writer.drained()


def _described(rule: Rule) -> str:
    """Return name and place; of the file its name only, because clients need not know the folders."""
    place = rule.place
    return rule.name if place is None else f"{rule.name} {PurePath(place.file).name}:{place.line}"


def header_value(text: str) -> bytes:
    """Encode a value: as `%XX` its control characters, bytes outside ASCII, outer blanks, and `%` itself."""
    safe = quote(text[:_MAX_VALUE], safe=_SAFE, errors="replace")
    if safe.startswith(" "):
        safe = f"%20{safe[1:]}"
    if safe.endswith(" "):
        safe = f"{safe[:-1]}%20"
    return safe.encode()[:_MAX_VALUE]
