"""Continues an answer on another worker after its own was lost in mid-stream."""

from __future__ import annotations

import logging
from typing import Protocol

from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.vllm.continuation import Continuation
from vllama_pool.router.protocol.vllm.resumable import refusal
from vllama_pool.router.protocol.vllm.resume_rule import Interruption, interruption_refusal
from vllama_pool.router.protocol.vllm.seam import Seam
from vllama_pool.router.protocol.vllm.token_log import Progress
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.interrupted import Interrupted
from vllama_pool.router.proxy.worker_errors import transport_failure
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import TransportError

MAX_WORKERS = 2
"""Workers that are asked to continue one answer. The second is asked only if the first sent nothing of it."""
_log = logging.getLogger(__name__)


class Owner(Protocol):
    """The request whose answer is continued."""

    record: RequestRecord

    def choose_again(self, excluded: frozenset[str]) -> Replica | None:
        """Choose a worker that is not excluded, by id."""

    def attempt(self, replica: Replica) -> Attempt:
        """Begin the next attempt."""

    def note_failure(self, replica: Replica, failure: AttemptFailed) -> None:
        """The attempt that `attempt` began has failed."""

    async def may_go_on(self) -> bool:
        """False if the request may be what killed the engines so far."""

    def may_retry(self) -> bool:
        """True if the budget pays one more attempt."""


async def resume(owner: Owner, interrupted: Interrupted, lost: Replica, resolution: Resolution) -> None:
    """Complete the client's response, or end it with one error."""
    progress, record = interrupted.log.progress(), owner.record
    if progress is not None and progress.finish is not None:
        await interrupted.complete(_counts(progress), record)
        return
    allowed = {replica.worker.id for replica in resolution.replicas if _is_same(replica, lost)}
    reason = _refusal(interrupted, progress, lost, record.resumed, len(allowed))
    if reason or progress is None:
        _log.debug("request %s: not continued: %s", record.id, reason)
    else:
        others = frozenset(replica.worker.id for replica in resolution.replicas) - allowed
        if await _try_workers(owner, interrupted, progress, others):
            return
    record.outcome = await interrupted.fail()


async def _try_workers(owner: Owner, interrupted: Interrupted, progress: Progress, excluded: frozenset[str]) -> bool:
    """Return False if no worker sent a byte of the rest. `excluded`: workers by id."""
    for number in range(MAX_WORKERS):
        if not await owner.may_go_on() or (number and not owner.may_retry()):
            return False
        replica = owner.choose_again(excluded)
        if replica is None:
            return False
        attempt, model = owner.attempt(replica), replica.model
        continuation = Continuation(interrupted.kept, progress, model.name, model.context_length)
        try:
            await attempt.resume(continuation, interrupted)
            return True
        except TransportError as error:
            failure: AttemptFailed = transport_failure(error)
        except AttemptFailed as error:
            failure = error.with_traceback(None)
        attempt.fail(failure)
        owner.note_failure(replica, failure)
    return False


def _refusal(interrupted: Interrupted, progress: Progress | None, lost: Replica, resumed: int, replicas: int) -> str:
    """Return why the answer is not continued; "" if it is."""
    return refusal(interrupted.kept.sampling, lost.model) or interruption_refusal(
        Interruption(
            finished=progress is not None and progress.finish is not None,
            resumed=resumed,
            complete_log=progress is not None,
            reasoning_open=progress is not None and bool(progress.reasoning) and not progress.text,
            replicas=replicas,
        )
    )


def _is_same(replica: Replica, lost: Replica) -> bool:
    """True if it is another one with the same model files under the same name."""
    model, digest = replica.model, lost.model.digest
    return (
        replica.worker is not lost.worker and digest != "" and (digest, lost.model.name) == (model.digest, model.name)
    )


def _counts(progress: Progress) -> bytes:
    """Return the rest of an answer whose finish was seen: the ids give the counts."""
    prompt, tokens = len(progress.prompt), len(progress.ids)
    return Seam(progress.head, chat=progress.is_chat, prompt_tokens=prompt, tokens=tokens, text="", sent="").counts()
