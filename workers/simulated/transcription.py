"""/v1/audio/transcriptions: requests and responses."""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import io
import math
import secrets
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from vllama_pool.workers.simulated import answers, vocabulary
from vllama_pool.workers.simulated.answers import AnswerPlan, Kind, Token
from vllama_pool.workers.simulated.chunks import ChunkStream
from vllama_pool.workers.simulated.collector import Collected
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.errors import ApiError, parameter
from vllama_pool.workers.simulated.generation import Ending
from vllama_pool.workers.simulated.jobs import Format, Job
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.prompts import check_model
from vllama_pool.workers.simulated.shapes import Int64, Shape
from vllama_pool.workers.simulated.streams import ResponseHead
from vllama_pool.workers.simulated.validation import validate

BYTES_PER_SECOND = 16_000
"""Of audio that is not a WAV file."""
VERBOSE = "verbose_json"
STREAM_OPTIONS = ("stream_include_usage", "stream_continuous_usage_stats")


class TranscriptionRequest(Shape):
    file: bytes
    model: str | None = None
    language: str | None = None
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    stream: bool | None = False
    stream_include_usage: bool | None = False
    stream_continuous_usage_stats: bool | None = False
    temperature: float = 0.0
    seed: Int64 | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True)
class _Audio:
    size: int
    seconds: float


class TranscriptionStream(ChunkStream):
    object = "transcription.chunk"

    def choice(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any] | None:
        text = "".join(token.text for token in group)
        if not text and not finish:
            return None
        ended = {"finish_reason": finish, "stop_reason": stop_reason} if finish else {}
        return {"delta": {"content": text}, **ended}

    def plain(self, index: int, token: Token) -> None:
        self.group(index, [token], "", None)

    def chunk(self, index: int, choice: dict[str, Any], *, last: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {"choices": [choice]}
        if self.head.continuous_usage and self.head.include_usage:
            fields["usage"] = self.running_usage(index)
        return fields

    def last_chunk(self) -> dict[str, Any]:
        return {"choices": [], "usage": self.final_usage()}


def transcription_response(head: ResponseHead, counts: Counts, sequences: Sequence[Collected]) -> dict[str, Any]:
    [collected] = sequences
    text = collected.text(Kind.CONTENT)
    seconds = head.request["seconds"]
    if head.request["format"] == VERBOSE:
        segment = {
            "id": 0,
            "avg_logprob": -0.1,
            "compression_ratio": 1.0,
            "end": seconds,
            "no_speech_prob": None,
            "seek": 0,
            "start": 0.0,
            "temperature": head.request["temperature"],
            "text": text,
            "tokens": collected.ids,
        }
        language = head.request["language"]
        return {"duration": seconds, "language": language, "text": text, "segments": [segment], "words": None}
    return {"text": text, "usage": {"type": "duration", "seconds": math.ceil(seconds)}}


FORMAT = Format("transcribe-", TranscriptionStream, transcription_response)


def parse_transcription(body: bytes, content_type: str) -> TranscriptionRequest:
    """Raises ApiError."""
    fields = _form(body, content_type)
    if isinstance(fields.get("file"), str):
        raise ApiError("Expected 'file' to be a file-like object, not 'str'.", status=422, kind="Unprocessable Entity")
    named = next((name for name in STREAM_OPTIONS if fields.get(name)), None)
    if named is not None and not fields.get("stream"):
        raise parameter("Stream options can only be defined when `stream=True`.", named)
    request: TranscriptionRequest = validate(TranscriptionRequest, fields)
    return request


def transcription_job(request: TranscriptionRequest, options: Options, request_id: str | None) -> Job:
    """Raises ApiError."""
    check_model(request.model, options)
    if request.response_format not in ("text", "json", VERBOSE, "diarized_json"):
        raise ApiError("Currently only support response_format: `text`, `json`, `verbose_json` or `diarized_json`")
    if request.response_format == "diarized_json":
        raise ApiError(f"Currently do not support diarized_json for {request.model or options.model}")
    if request.response_format == VERBOSE and request.stream:
        raise ApiError(f"{VERBOSE} format doesn't support streaming case")
    audio = _audio(request.file)
    prompt = vocabulary.encode(f"{request.prompt} audio of {audio.size} bytes".strip())
    limit = min(request.max_completion_tokens or options.max_model_len, options.max_model_len)
    head = ResponseHead(
        id=FORMAT.prefix + (request_id or secrets.token_hex(8)),
        created=int(time.time()),
        model=options.model,
        prompts=(prompt,),
        include_usage=bool(request.stream_include_usage),
        continuous_usage=bool(request.stream_continuous_usage_stats),
        request={
            "seconds": audio.seconds,
            "format": request.response_format,
            "language": request.language,
            "temperature": request.temperature,
        },
    )
    text = answers.answer(prompt, AnswerPlan(length=options.answer_tokens))
    return Job(FORMAT, head, bool(request.stream), (text,), (Ending(limit=limit),))


def _form(body: bytes, content_type: str) -> dict[str, Any]:
    """Return a form's fields: texts, and the bytes of files."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields: dict[str, Any] = {}
    for part in parsed.iter_parts() if parsed.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(data, bytes):
            fields[name] = data.decode("utf-8", "replace") if part.get_filename() is None else data
    return fields


def _audio(data: bytes) -> _Audio:
    """Raises ApiError for a file without content."""
    if not data:
        raise ApiError("Invalid or unsupported audio file.")
    try:
        with wave.open(io.BytesIO(data)) as file:
            return _Audio(len(data), file.getnframes() / file.getframerate())
    except (wave.Error, EOFError):
        return _Audio(len(data), len(data) / BYTES_PER_SECOND)
