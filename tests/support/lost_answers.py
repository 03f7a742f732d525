"""Answers that lose their worker in mid-stream, and what other workers need to continue them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.support.forwarding import SERVED, Fleet
from tests.support.protocol import objects
from tests.support.upstream import FakeResponse
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.poison.byte_budget import ByteBudget
from vllama_pool.router.poison.evidence import CrashId
from vllama_pool.router.upstream.interface import ConnectionLost

SAME = msgspec.structs.replace(SERVED, digest="a" * 64)


LOST = ConnectionLost("reset")


PROMPT = [1, 2]


TEXTS = {10: "one", 11: " two", 12: " three", 13: " four"}


DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode({"id": "chatcmpl-1", "model": "m", **fields})


def chat(ids: list[int], finish: str | None = None) -> bytes:
    text = "".join(TEXTS[each] for each in ids)
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish, "token_ids": ids}])


def completion(ids: list[int], finish: str | None = None) -> bytes:
    text = "".join(TEXTS[each] for each in ids)
    return event(choices=[{"index": 0, "text": text, "finish_reason": finish, "token_ids": ids}])


def usage(prompt: int, tokens: int) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": tokens})


FIRST = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], prompt_token_ids=PROMPT)


CUT = FakeResponse([FIRST, chat([10]), chat([11]), LOST])
"""An answer whose worker is lost after two tokens."""


ONE_TOKEN = FakeResponse([FIRST, chat([10], "stop"), usage(4, 1), DONE])


REST = [completion([12]), completion([13], "stop"), usage(4, 2), DONE]


def detokenized(text: str) -> FakeResponse:
    return FakeResponse([json.dumps({"prompt": text}).encode()])


def rest(*steps: Any) -> list[FakeResponse]:
    """Return the responses of a worker that continues: texts of the prompt's end and of all tokens, and the rest."""
    return [detokenized("?"), detokenized("?one two"), FakeResponse(steps or REST)]


class Guard:
    """A poison guard that knows which engines died by themselves."""

    def __init__(self, *crashed: str) -> None:
        self.refused: dict[str, Any] = {}
        self.suspects_begun = True
        self.kept = ByteBudget(1 << 20)
        self._crashed = crashed
        self.asked: list[str] = []
        self.lost: list[str] = []
        """Workers that were lost after the answer had begun."""
        self.answered = 0
        """Requests that one engine answered."""

    async def crash_of(self, worker: Worker, sent: float, *, met: bool) -> CrashId | None:
        self.asked.append(worker.id)
        return CrashId(worker.id, 1, 1) if worker.id in self._crashed else None

    def lost_begun(self, worker: Worker, sent: float, operation: str, request: Any, size: int) -> None:
        assert (operation, request is not None) == ("chat", True)
        self.lost.append(worker.id)

    def completed(self, operation: str, request: Any, size: int) -> None:
        assert (operation, request is not None) == ("chat", True)
        self.answered += 1

    async def may_meet_another(self, crashes: Sequence[CrashId], operation: str, request: Any, size: int) -> bool:
        return len(crashes) < 2


def fleet_of(poison: Any = None, lagging: bool = False, **scripts: Any) -> Fleet:
    return Fleet(models=dict.fromkeys(scripts, SAME), poison=poison, lagging=lagging, **scripts)


def text_of(body: bytes) -> str:
    return "".join(line["message"]["content"] for line in objects(body) if "message" in line)


def errors_of(body: bytes) -> list[Any]:
    return [line["error"] for line in objects(body) if "error" in line]
