"""POST /v1/audio/transcriptions and /v1/audio/translations: checks, and the requests to vLLM (R119).

The client's form is read completely and built anew: a retry sends it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.openai import requests
from vllama_pool.router.protocol.openai.audio.form import NOT_A_FORM, FormFile, build_form, parse_form
from vllama_pool.router.protocol.openai.audio.transcripts import WRITERS, TranscriptAnswer, TranscriptStream
from vllama_pool.router.protocol.openai.model_kinds import TRANSCRIPTION
from vllama_pool.router.protocol.operation import Clock, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm.request_body import invalid_value, not_for_clients
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_transcript
from vllama_pool.router.protocol.vllm.window import lower
from vllama_pool.workers.registry.record import ModelInfo

MAX_FILE = 25 * 2**20
"""The limit of OpenAI, Ollama and vLLM."""
TEXT = "text/plain; charset=utf-8"
NO_FILE = "file is required: send it as a file in the form's field 'file'"
"""It begins as Ollama's text does."""
EMPTY_FILE = "audio file is empty"
"""Ollama's text."""
REFUSED: Final = {"vllm_xargs": "leave it out"}
_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
_STREAMED: Final = ("json", "text")
_NUMBERS: Final = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
_VERBOSE: Final = "verbose_json"


Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class TranscriptionRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The list of the form's fields that are forwarded."""

    model: str = ""
    file: FormFile | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: str | None = None
    temperature: float | None = None
    timestamp_granularities: list[Literal["word", "segment"]] | None = None
    streamed: bool | None = msgspec.field(default=None, name="stream")
    stream_include_usage: bool | None = None
    stream_continuous_usage_stats: bool | None = None
    hotwords: str | None = None
    to_language: str | None = None
    seed: Int64 | None = None
    top_p: float | None = None
    top_k: Int64 | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_completion_tokens: Int64 | None = None

    keep_alive: ClassVar = None

    @property
    def stream(self) -> bool:
        return self.streamed is True

    @property
    def streams_answer(self) -> bool:
        return self.streamed is True


def decode(body: bytes) -> TranscriptionRequest:
    """Raises BadRequest, because the body is not a form."""
    raise BadRequest(f"{NOT_A_FORM} with 'model' and 'file'")


def decode_form(content_type: str, body: bytes) -> TranscriptionRequest:
    """Raises BadRequest and TooLarge."""
    form = parse_form(content_type, body, MAX_FILE)
    for name, advice in REFUSED.items():
        if name in form.texts:
            raise not_for_clients(name, advice)
    texts = {name: text for name, text in form.texts.items() if text and name != "file"}
    try:
        request = msgspec.convert({**texts, **form.lists}, TranscriptionRequest, strict=False)
    except msgspec.ValidationError as error:
        raise invalid_value(str(error)) from None
    _check(request)
    return msgspec.structs.replace(request, file=_file(form.files.get("file")))


def _check(request: TranscriptionRequest) -> None:
    requests.require_model(request.model)
    name = request.response_format
    if name is not None and name not in _FORMATS:
        formats = ", ".join(f"'{each}'" for each in _FORMATS)
        raise BadRequest(f"Invalid value: '{name}'. Supported values are: {formats}.", param="response_format")
    if request.stream and name is not None and name not in _STREAMED:
        raise BadRequest(f"'stream' is not possible with the format '{name}'; use 'json'", param="stream")
    if request.timestamp_granularities and name != _VERBOSE:
        raise BadRequest("'timestamp_granularities' needs the format 'verbose_json'", param="timestamp_granularities")
    for field in _NUMBERS:
        value = getattr(request, field)
        if value is not None and not math.isfinite(value):
            raise BadRequest(f"Invalid value for '{field}': not a number.", param=field)
    if request.max_completion_tokens is not None and request.max_completion_tokens < 1:
        raise requests.below_minimum("max_completion_tokens", request.max_completion_tokens)


def _file(file: FormFile | None) -> FormFile:
    if file is None:
        raise BadRequest(NO_FILE, param="file")
    if not file.data:
        raise BadRequest(EMPTY_FILE, param="file")
    return file


def check(request: TranscriptionRequest, info: ModelInfo) -> None:
    """Raises BadRequest if the model is of another kind."""
    TRANSCRIPTION.require(request.model, info)


def prepare(path: str, request: TranscriptionRequest, info: ModelInfo, defaults: Defaults) -> UpstreamRequest:
    file = request.file
    assert file is not None  # checked by `decode_form`
    if defaults.output is not None:
        request = msgspec.structs.replace(
            request, max_completion_tokens=lower(request.max_completion_tokens, defaults.output)
        )
    content_type, body = build_form(_fields(request, info.name), "file", file)
    return UpstreamRequest(path, body, whole=not request.stream, content_type=content_type)


def _fields(request: TranscriptionRequest, model: str) -> Iterator[tuple[str, str]]:
    """Yield the form's fields as vLLM takes them. The usage is asked for, for the log and the metrics."""
    wants_subtitles = request.response_format in ("srt", "vtt")
    upstream = msgspec.structs.replace(
        request,
        model=model,
        response_format=_VERBOSE if wants_subtitles else request.response_format,
        stream_include_usage=True if request.stream else None,
        stream_continuous_usage_stats=request.stream_continuous_usage_stats if request.stream else None,
        file=None,
        timestamp_granularities=None,
    )
    for name, value in msgspec.to_builtins(upstream).items():
        yield name, value if isinstance(value, str) else msgspec.json.encode(value).decode()
    for granularity in request.timestamp_granularities or ():
        yield "timestamp_granularities[]", granularity


def adapt(request: TranscriptionRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> None:
    """Raises Refused if the worker lacks the route."""
    TRANSCRIPTION.explain(refusals[-1], request.model)


def translator(request: TranscriptionRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    if request.stream:
        return TranscriptStream(request.model, 1, request.stream_include_usage is True)
    write = WRITERS.get(request.response_format or "json")
    return WholeAnswer(request.model, read_transcript) if write is None else TranscriptAnswer(request.model, write)


def content_type(request: TranscriptionRequest) -> str:
    if request.stream:
        return json_lines.EVENTS
    return TEXT if request.response_format in WRITERS else json_lines.JSON
