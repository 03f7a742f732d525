"""An answer whose worker was lost in mid-stream."""

from __future__ import annotations

from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.operation import Restartable, Resumable, StreamTranslator
from vllama_pool.router.protocol.vllm.token_log import TokenLog
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.headers import Headers
from vllama_pool.router.proxy.relay import Ending
from vllama_pool.router.telemetry.request_record import RequestRecord


class Interrupted(Exception):
    """The client has a part of the answer, and no error yet. The owner of the request ends the response."""

    def __init__(
        self,
        translator: StreamTranslator,
        headers: Headers,
        client: ClientWriter,
        log: TokenLog,
        kept: Resumable,
        text: str,
        cause: AttemptFailed,
    ) -> None:
        """`text`: the client's error, if nobody continues the answer. `cause`: what the worker did."""
        super().__init__(text)
        self.translator = translator
        self.headers = headers
        self.log = log
        self.kept = kept
        self.text = text
        self.cause = cause
        self._ending = Ending.LOST if translator.failure is None else Ending.FAILED
        self._client = client
        self._restarted = False
        self.ended = False
        """The end of the response is written."""

    def restart(self, dropped: int) -> None:
        """Prepare the translator. Idempotent. `dropped`: tokens at the end that are generated again."""
        translator = self.translator
        assert isinstance(translator, Restartable)
        if not self._restarted:
            self._restarted = True
            translator.restart(dropped)

    async def complete(self, events: bytes, record: RequestRecord) -> None:
        """Complete the response with a worker's events, and note the counts."""
        self.restart(0)
        out, usage = self.translator.feed(events), self.translator.usage
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        record.done_reason = usage.done_reason
        record.outcome = await self._end(out, Ending.COMPLETE)

    async def fail(self) -> str:
        """End the response with an error. Return the outcome."""
        return await self._end(self.translator.fail(self.text), self._ending)

    async def _end(self, out: bytes, ending: Ending) -> str:
        """Write the end of the response. Return the outcome."""
        self.ended = True
        if not self._client.write(out, last=True):
            try:
                await self._client.drained()
            except TimeoutError:
                return str(Ending.CLIENT_STALLED)
        return str(ending)
