"""Moves a request to another model after its own could not answer. No I/O.

A request moves along the chain of the name that it asked for. If a target fails for another reason, the chain for that
reason comes first. No model is tried twice, so the moves end.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from vllama_pool.router.errors import (
    AttemptFailed,
    Busy,
    ClientError,
    ContextTooLong,
    Lost,
    ModelGone,
    Refused,
    Unavailable,
)
from vllama_pool.router.protocol.operation import DirectResponse, Operation
from vllama_pool.router.proxy import context_fit
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.resolution import Reason, Resolution
from vllama_pool.router.telemetry.request_record import Fallback, RequestRecord

_log = logging.getLogger(__name__)

MAX_FALLBACKS: Final = 8
"""Moves of one request."""
MAX_ATTEMPTS: Final = 16
"""Attempts of one request, on all models together."""
NOT_LARGER: Final = "its context is not larger"


def reason_of(failure: AttemptFailed) -> Reason | None:
    """Return the reason for a move after a model's last failure; None if the request is at fault."""
    if isinstance(failure, ContextTooLong):
        return "context"
    if isinstance(failure, Refused):
        return None
    if isinstance(failure, Busy):
        return "overloaded"
    return "no_worker" if isinstance(failure, ModelGone) else "error"


def spoils_worker(failure: AttemptFailed) -> bool:
    """True if the worker would fail for another model, too."""
    return isinstance(failure, Lost | Busy | Unavailable)


def first_able(
    operation: Operation[Any], request: Any, resolution: Resolution, asker: Asker | None
) -> tuple[Resolution, DirectResponse | None]:
    """Return the first model that can serve a request whose own model has no worker, and the answer if it needs none.

    `resolution`: the first fallback. Raises NoWorker.
    """
    asked = resolution.asked
    assert asked is not None  # `resolution` is a fallback
    passed = {asked.resolution.key}
    target: Resolution | None = resolution
    while target is not None:
        try:
            return target, operation.check(request, target.info, target.defaults)
        except ClientError:
            passed.add(target.key)
        target = _drawn(asked.resolution.next(asked.reason, passed), asker)
    raise asked.resolution.no_worker()


def _drawn(target: Resolution | None, asker: Asker | None) -> Resolution | None:
    if target is None or asker is None or not target.needs_asker:
        return target
    return target.drawn(target.identity(asker))


class Fallbacks:
    """One request's moves. Made when its model fails, or when it is asked whether another one has room."""

    __slots__ = ("_asked", "_call", "_passed", "_reasons", "_record", "context", "error")

    def __init__(self, call: ForwardRequest, record: RequestRecord) -> None:
        self._call = call
        self._record = record
        resolution = call.resolution
        asked = resolution.asked
        self._asked = first = asked.resolution if asked is not None else resolution
        self._passed = {first.key, resolution.key}
        self._reasons: list[Reason] = [asked.reason] if asked is not None else []
        self.error: ClientError | None = None
        """The client's, if no model answers: of the first that failed for another reason than its context."""
        self.context = 0
        """The largest context of that model."""
        if asked is not None:
            self._note(first, first.no_worker())

    def __repr__(self) -> str:
        return f"<Fallbacks of {self._asked.model!r}, {len(self._passed)} models passed>"

    def move(self, error: ClientError, reason: Reason | None, context: int = 0) -> bool:
        """Give the request to the next model that can serve it. Return False if there is none.

        `error` and `reason`: of the present model; no reason if the request is at fault. `context`: one in tokens that
        was too small.
        """
        call, record = self._call, self._record
        if reason is not None:
            self._reasons.append(reason)
        if reason != "context" and self.error is None:
            self._note(call.resolution, error)
        target = _drawn(self._find(self._reasons, context), call.asker)
        if target is None:
            self.error = self.error or error
            return False
        self._passed.add(target.key)
        why = self._reasons[-1]
        _log.debug("request %s: %s takes over: %s", record.id, target.model, why)
        record.fallbacks = (*record.fallbacks, Fallback(why, target.model, record.attempts))
        call.resolution = target
        return True

    def has_next(self, reason: Reason, context: int) -> bool:
        """True if a fallback may answer instead for this reason."""
        return self._find([*self._reasons, reason], context) is not None

    def has_room(self, context: int) -> bool:
        """True if a fallback has a context of more tokens."""
        return self._find([*self._reasons, "context"], context) is not None

    def _find(self, reasons: list[Reason], context: int) -> Resolution | None:
        """Return the next model without an obstacle."""
        if len(self._record.fallbacks) >= MAX_FALLBACKS or self._record.attempts >= MAX_ATTEMPTS:
            return None
        passed = set(self._passed)
        for reason in reversed(reasons):
            while (target := self._asked.next(reason, passed)) is not None:
                obstacle = self._obstacle(target, context)
                if not obstacle:
                    return target
                passed.add(target.key)
                _log.debug("request %s: %s cannot take over: %s", self._record.id, target.model, obstacle)
        return None

    def _obstacle(self, target: Resolution, context: int) -> str:
        """Return why the model cannot serve the request; "" if it can."""
        if context and context_fit.is_too_small(target, context):
            return NOT_LARGER
        call = self._call
        try:
            call.operation.check(call.request, target.info, target.defaults)
        except ClientError as refusal:
            return refusal.text
        return ""

    def _note(self, resolution: Resolution, error: ClientError) -> None:
        self.error = error
        self.context = context_fit.largest(resolution)
