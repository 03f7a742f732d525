"""uvicorn's flow control of a connection, without an event while nobody waits."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http import flow_control


class FlowControl(flow_control.FlowControl):
    """Makes the event on demand: few clients are ever behind."""

    _writable: asyncio.Event | None = None
    gave_up = False
    """The client was dropped, because it does not read."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False

    async def drain(self) -> None:
        if self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def pause_writing(self) -> None:
        self.write_paused = True

    def give_up(self) -> None:
        """Wake those that wait for the client."""
        self.gave_up = True
        self.resume_writing()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None
