"""A request, as its attempts see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import ContextTooLong
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.telemetry.request_record import RequestRecord


class Requester(Protocol):
    call: ForwardRequest
    record: RequestRecord
    client: ClientWriter
    waiting: bool
    """True until the client's response begins."""
    client_left: bool
    on_answer: Callable[[], None]
    """Called before a response that is not streamed is written."""

    def begin_response(self) -> None:
        """The present attempt's answer is the client's response. Idempotent."""

    def owns(self, attempt: object) -> bool:
        """True if it will close this attempt."""

    def has_larger(self, replica: Replica) -> bool:
        """True if a larger context than the replica's may answer."""

    def moves_for(self, refusal: ContextTooLong, replica: Replica) -> bool:
        """True if the request goes to a larger context after this refusal: the attempt then fails with it."""
