"""/v1/completions as a chat, for models whose routing file says `completions: templated` (R028, R115).

The prompt becomes the user's message, and the chat's answer a completion. Thoughts are left out, as in Ollama.
"""

from __future__ import annotations

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.openai.requests import CompletionRequest
from vllama_pool.router.protocol.operation import UpstreamRequest
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.resumable import WITH_IDS, of_fields
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_choices

ONE_TEXT = "this model takes one text as 'prompt'; its routing file says completions: templated"


_ABSENT = msgspec.Raw()
"""The default that is left out, by identity."""


class _Message(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True, gc=False):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        message = self.delta or self.message
        return (message and message.content) or ""


class _Chat(msgspec.Struct, frozen=True, gc=False):
    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[_Choice] = []
    usage: msgspec.Raw = _ABSENT


class _CompletionChoice(msgspec.Struct, frozen=True, gc=False):
    index: int
    text: str
    logprobs: None
    finish_reason: str | None
    stop_reason: int | str | None


class _Completion(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[_CompletionChoice]
    usage: msgspec.Raw = _ABSENT


_decode = msgspec.json.Decoder(_Chat).decode


def applies(request: CompletionRequest, plan: ModelPlan) -> bool:
    return plan.defaults.templates_completions and plan.info.has_template and not request.suffix


def prepare(request: CompletionRequest, upstream: CompletionRequest, plan: ModelPlan) -> UpstreamRequest:
    """`upstream`: the request to /v1/completions. Raises BadRequest."""
    sent = messages(request, plan)
    upstream.prompt = upstream.suffix = upstream.echo = upstream.logprobs = upstream.prompt_logprobs = None
    fields = api.encode(upstream)
    resume = of_fields(upstream, fields, plan.info) if request.stream and plan.resumes else None
    more = WITH_IDS if resume is not None else b""
    body = b'%b%b,"messages":%b}' % (fields[:-1], more, api.encode(sent))
    stream = TemplatedStream if request.stream else TemplatedAnswer
    return UpstreamRequest(
        api.CHAT_PATH, body, lambda request, timing, clock: stream(request), whole=not request.stream, resume=resume
    )


def messages(request: CompletionRequest, plan: ModelPlan) -> list[api.VllmMessage]:
    """Return the prompt as a chat. Raises BadRequest."""
    prompt = request.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise BadRequest(ONE_TEXT, param="prompt")
        prompt = prompt[0]
    return plan.with_messages([api.VllmMessage("user", prompt)])


class TemplatedStream(ChunkStream):
    """The stream of a chat as that of a completion."""

    __slots__ = ()

    def __init__(self, request: CompletionRequest) -> None:
        super().__init__(request.model, request.n or 1, request.includes_usage)

    def passed(self, data: bytes, count: int) -> bytes | None:
        return None

    def read(self, event: bytes, payload: bytes) -> bytes:
        kept = super().read(event, payload)
        if not kept or self.done:
            return kept
        chat = _decode(payload)
        if chat.choices and not any(choice.text or choice.finish_reason for choice in chat.choices):
            return b""
        return b"data: %b\n\n" % api.encode(_completion(chat, self.name))


class TemplatedAnswer(WholeAnswer):
    """The answer of a chat as that of a completion."""

    __slots__ = ()

    def __init__(self, request: CompletionRequest) -> None:
        super().__init__(
            request.model, read_choices, lambda body: api.encode(_completion(_decode(body), request.model))
        )


def _completion(chat: _Chat, name: str) -> _Completion:
    choices = [
        _CompletionChoice(choice.index, choice.text, None, choice.finish_reason, choice.stop_reason)
        for choice in chat.choices
    ]
    identity = f"cmpl-{chat.id.removeprefix('chatcmpl-')}"
    return _Completion(identity, "text_completion", chat.created, name, choices, chat.usage)
