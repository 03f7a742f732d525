"""Exchanges reports between the processes of one `vllama serve`, over abstract Unix sockets.

The asking process sends the name of a report and a line feed; of a question, its argument follows the name after a tab.
The other one answers and closes. Abstract sockets need no cleanup. Any user can bind one, so both ends check that the
peer is this user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.telemetry.shared_call import SharedCall

TIMEOUT = 1.0
"""Seconds."""
_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: pid, uid, gid."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report(Generic[T]):
    """One kind of report."""

    name: str
    type: type[T]
    own: Callable[[], T]
    """Returns this process's."""
    takes_long: bool = False
    """True to call `own` in a thread: it takes some milliseconds, in which streams would stand still."""


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A report on one thing, such as one request."""

    name: str
    type: type[T]
    own: Callable[[str], T]
    """Returns this process's answer, by the argument."""


class ReportExchange:
    def __init__(
        self, instance: RouterInstance, reports: Iterable[Report[Any]], questions: Iterable[Question[Any]] = ()
    ) -> None:
        self._instance = instance
        self._questions = {question.name: question for question in questions}
        self._reports = {report.name: report for report in reports}
        self._calls = {name: SharedCall(lambda name=name: self._ask_all(name)) for name in self._reports}  # type: ignore[misc]

    @property
    def index(self) -> int:
        return self._instance.index

    @property
    def total(self) -> int:
        return self._instance.total

    async def collect(self, report: Report[T]) -> Mapping[int, T]:
        """Return the reports of this process and of those that answer in time, by process index."""
        others: Mapping[int, T] = await self._calls[report.name]() if self.total > 1 else {}
        own = await asyncio.to_thread(report.own) if report.takes_long else report.own()
        return {self._instance.index: own, **others}

    async def ask(self, question: Question[T], argument: str) -> Mapping[int, T]:
        """Return the answers of this process and of those that answer in time, by process index. Raises ValueError for
        an argument with control characters."""
        if not argument.isprintable():
            raise ValueError("an argument is one line of printable text")
        instance = self._instance
        line = f"{question.name}\t{argument}"
        others = [index for index in range(instance.total) if index != instance.index]
        answers = await ask_processes(instance, others, line, question.type)
        return {instance.index: question.own(argument), **answers}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer the other processes within the context. A process without a family has none."""
        if not self._instance.family:
            yield
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(self._instance.address(self._instance.index))
            async with await asyncio.start_unix_server(self._serve, sock=listening):
                yield

    async def _ask_all(self, name: str) -> Mapping[int, Any]:
        instance = self._instance
        others = [index for index in range(instance.total) if index != instance.index]
        return await ask_processes(instance, others, name, self._reports[name].type)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            if _same_user(writer.get_extra_info("socket")):
                async with asyncio.timeout(TIMEOUT):
                    line = (await reader.readline()).decode().strip("\n")
                name, _, argument = line.partition("\t")
                writer.write(await self._answer(name, argument))
            writer.close()
            await writer.wait_closed()

    async def _answer(self, name: str, argument: str) -> bytes:
        """Return nothing for an unknown name, which a newer process may send."""
        if report := self._reports.get(name):
            if report.takes_long:
                return await asyncio.to_thread(lambda: msgspec.msgpack.encode(report.own()))
            return msgspec.msgpack.encode(report.own())
        question = self._questions.get(name)
        return msgspec.msgpack.encode(question.own(argument)) if question else b""


async def ask_processes(family: RouterInstance, indexes: Iterable[int], name: str, kind: type[T]) -> Mapping[int, T]:
    """Return the reports of those processes of a family that answer in time, by process index."""
    asked = list(indexes)
    answers = await asyncio.gather(*(_ask(family.address(index), name, kind) for index in asked))
    return {index: answer for index, answer in zip(asked, answers, strict=True) if answer is not None}


async def _ask(address: str, name: str, kind: type[T]) -> T | None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(TIMEOUT):
                await loop.sock_connect(sock, address)
                if not _same_user(sock):
                    return None
                await loop.sock_sendall(sock, f"{name}\n".encode())
                return msgspec.msgpack.decode(await _read(sock), type=kind)
        except (OSError, TimeoutError, msgspec.MsgspecError):
            return None


async def _read(sock: socket.socket) -> bytes:
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _same_user(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(raw)[1] == os.geteuid())
