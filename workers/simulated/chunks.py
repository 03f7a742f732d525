"""Chunks of a stream, as chats and completions send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.workers.simulated.answers import Token
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.streams import DONE, ResponseHead, Stream, Writer

encode = msgspec.json.encode


class ChunkStream(Stream):
    object = ""

    def __init__(self, head: ResponseHead, counts: Counts, writer: Writer) -> None:
        super().__init__(head, counts, writer)
        prefix = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[{"index":' % (
            encode(head.id),
            self.object.encode(),
            head.created,
            encode(head.model),
        )
        self._prefixes = [b"%b%d," % (prefix, index) for index in range(head.sequences)]
        self._plain = not (head.return_token_ids or head.logprobs is not None or head.continuous_usage)

    def choice(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any] | None:
        """Return the choice without its index, or None for no event."""
        raise NotImplementedError

    def running_usage(self, index: int) -> dict[str, Any]:
        return self.counts.running(index)

    def final_usage(self) -> dict[str, Any]:
        return self.counts.final()

    def group(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> None:
        choice = self.choice(index, group, finish, stop_reason)
        if choice is not None:
            self.write(index, choice, {}, last=bool(finish))

    def write(self, index: int, choice: dict[str, Any], extra: dict[str, Any], *, last: bool = False) -> None:
        self._write_fields({**self.chunk(index, choice, last=last), **extra})

    def chunk(self, index: int, choice: dict[str, Any], *, last: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {"choices": [{"index": index, **choice}]}
        if self.head.continuous_usage and self.head.include_usage:
            fields["usage"] = self.running_usage(index)
        if last and not self.head.include_usage:
            fields["system_fingerprint"] = self.head.fingerprint
        return fields

    def last_chunk(self) -> dict[str, Any]:
        """Return the usage of the whole response."""
        fields = {
            "choices": [],
            "usage": self.final_usage(),
            "system_fingerprint": self.head.fingerprint,
        }
        timings = self.counts.timings() if self.head.timings else None
        if timings is not None:
            fields["metrics"] = {key: value for key, value in timings.items() if value is not None}
        return fields

    def end(self) -> None:
        if self.head.include_usage:
            self._write_fields(self.last_chunk())
        self._write(DONE)

    def _write_fields(self, fields: dict[str, Any]) -> None:
        head = self.head
        whole = {
            "id": head.id,
            "object": self.object,
            "created": head.created,
            "model": head.model,
            **fields,
        }
        self._write(b"data: %b\n\n" % encode(whole))

    def _ids(self, group: Sequence[Token]) -> list[int] | None:
        return [token.id for token in group] if self.head.return_token_ids else None
