"""Where a request is made ready for its worker: beside the event loop, if it is large."""

import dataclasses
import json
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.balance import Clock, found, group, pool_of
from tests.support.vllm.canned_response import Canned
from vllama_pool.config.routing.defaults import NONE
from vllama_pool.router.errors import ClientError
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.table import OPERATIONS
from vllama_pool.router.proxy.forward import Forwarder, ForwardRequest, Limits
from vllama_pool.router.proxy.stalls import StallLimits, StallWatch
from vllama_pool.router.routing.resolve import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.workers.registry.record import ModelInfo

CHAT = next(operation for operation in OPERATIONS if operation.name == "chat")
TOO_LONG = b'{"error":{"message":"This model\'s maximum context length is 10 tokens.","code":400}}'
MODEL = ModelInfo(name="m", context_length=10, has_template=True)


class Refusing:
    """A client of workers that all find the prompt too long, and cannot count."""

    async def send(self, *_: Any, **__: Any) -> Canned:
        return Canned(400, chunks=[TOO_LONG])


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1])
async def test_a_large_request_is_made_ready_beside_the_event_loop(size: int) -> None:
    threads: list[int] = []

    def seen(work: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            threads.append(threading.get_ident())
            return work(*given)

        return called

    assert CHAT.adapt is not None
    operation = dataclasses.replace(CHAT, prepare=seen(CHAT.prepare), adapt=seen(CHAT.adapt))
    pool = pool_of(Clock(), found("a", MODEL))
    forwarder = Forwarder(
        Refusing(),
        pool,
        StallWatch(StallLimits()),
        SystemClock(),
        random.Random(1),
        limits=Limits(),
        refresh=lambda: None,
    )
    resolution = Resolution("m", "m", group(pool), NONE, lambda workers, *_: workers[0])
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    call = ForwardRequest(operation, CHAT.decode(body), resolution, 0, "id", size)
    with pytest.raises(ClientError, match="longer than the context"):
        await forwarder.acquire(call, RequestRecord(id="id", operation="chat", client=""))
    assert len(threads) == 2
    assert (set(threads) == {threading.get_ident()}) is (size <= INLINE_BYTES)
