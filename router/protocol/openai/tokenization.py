"""POST /tokenize and /detokenize: checks, and the requests to vLLM.

A chat is tokenized as /v1/chat/completions would send it, with the texts of a virtual model.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Unable
from vllama_pool.router.protocol import capabilities
from vllama_pool.router.protocol.openai import messages, requests
from vllama_pool.router.protocol.openai.chat import check_functions
from vllama_pool.router.protocol.openai.messages import Message
from vllama_pool.router.protocol.openai.requests import Tool
from vllama_pool.router.protocol.operation import Clock, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, strict_templates
from vllama_pool.router.protocol.vllm.errors import WRONG_TASK
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.request_body import BodyDecoder, RefusedFields, missing_field
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_count, read_text_of_tokens
from vllama_pool.workers.registry.record import ModelInfo

REFUSED: Final = {
    "chat_template": "the model's own template is used",
    "media_io_kwargs": "leave it out",
    "mm_processor_kwargs": "leave it out",
}
NO_TEMPLATE = (
    "chat needs a chat template and \"{model}\" has none: send the text as 'prompt', or start vLLM with --chat-template"
)
NO_ROUTE = "this needs vLLM's {path}, which the worker does not have: put no filter before it"

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
"""vLLM's tokenizers take no others."""


class TokenRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The structs are the lists of fields that are forwarded."""

    model: str = ""

    stream: ClassVar = False
    streams_answer: ClassVar = False
    keep_alive: ClassVar = None


class TokenizeRequest(TokenRequest, frozen=True, omit_defaults=True, kw_only=True):
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None


class DetokenizeRequest(TokenRequest, frozen=True, omit_defaults=True, kw_only=True):
    tokens: list[TokenId] | None = None


_TOKENIZE = BodyDecoder(TokenizeRequest)
_DETOKENIZE = BodyDecoder(DetokenizeRequest)
_REFUSED = RefusedFields(REFUSED)


def decode_tokenize(body: bytes) -> TokenizeRequest:
    """Raises BadRequest."""
    request = _TOKENIZE.decode(body)
    requests.require_model(request.model)
    _REFUSED.check(body)
    if request.messages is None:
        if request.prompt is None:
            raise missing_field("prompt")
        return request
    if request.prompt is not None:
        raise BadRequest("Send either 'prompt' or 'messages', not both.", param="prompt")
    messages.check(request.messages)
    check_functions(request.tools or ())
    requests.check_template_kwargs(request.chat_template_kwargs)
    if request.continue_final_message and request.add_generation_prompt:
        raise BadRequest(
            "Send either 'continue_final_message' or 'add_generation_prompt', not both.", param="continue_final_message"
        )
    return request


def decode_detokenize(body: bytes) -> DetokenizeRequest:
    """Raises BadRequest."""
    request = _DETOKENIZE.decode(body)
    requests.require_model(request.model)
    if request.tokens is None:
        raise missing_field("tokens")
    return request


def check_tokenize(request: TokenizeRequest, info: ModelInfo) -> None:
    """Raises BadRequest if the model lacks what the messages need. Texts go to any kind of model."""
    if request.messages is None:
        return
    capabilities.require(messages.required_capabilities(request.messages), request.model, info)
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=request.model))


def check_detokenize(request: DetokenizeRequest, info: ModelInfo) -> None:
    """Any kind of model will do."""


def prepare_tokenize(request: TokenizeRequest, plan: ModelPlan) -> UpstreamRequest:
    if request.messages is None:
        return _send(api.TOKENIZE_PATH, request, plan.info)
    sent = plan.with_messages(messages.translate(request.messages, plan.info))
    if drops_tools := plan.drops_tools():
        sent = strict_templates.without_tools(sent)
    adds_prompt = False if request.continue_final_message else request.add_generation_prompt
    upstream = msgspec.structs.replace(
        request, messages=sent, tools=None if drops_tools else request.tools or None, add_generation_prompt=adds_prompt
    )
    return _send(api.TOKENIZE_PATH, upstream, plan.info)


def prepare_detokenize(request: DetokenizeRequest, info: ModelInfo, defaults: Defaults) -> UpstreamRequest:
    return _send(api.DETOKENIZE_PATH, request, info)


def _send(path: str, request: TokenRequest, info: ModelInfo) -> UpstreamRequest:
    return UpstreamRequest(path, api.encode(msgspec.structs.replace(request, model=info.name)), whole=True)


def adapt_tokenize(request: TokenizeRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> None:
    """Raises Refused in Ollama's words, if there are any, and Unable if the worker lacks the route."""
    _explain_route(api.TOKENIZE_PATH, refusals[-1])
    capabilities.explain_refusal(refusals[-1], request.model, messages.required_capabilities(request.messages or ()))


def adapt_detokenize(request: DetokenizeRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> None:
    """Raises Unable if the worker lacks the route."""
    _explain_route(api.DETOKENIZE_PATH, refusals[-1])


def _explain_route(path: str, failure: AttemptFailed) -> None:
    if failure.text == WRONG_TASK:
        raise Unable(NO_ROUTE.format(path=path), status=501)


def translator(request: TokenRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    read = read_text_of_tokens if isinstance(request, DetokenizeRequest) else read_count
    return WholeAnswer(request.model, read)
