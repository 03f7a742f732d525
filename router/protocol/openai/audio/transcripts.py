"""Transcripts in the formats of the client: plain text, subtitles, and streams that OpenAI's clients read too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.operation import StreamFailure
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_transcript

INVALID = "the worker's transcript is invalid"


class Segment(msgspec.Struct, frozen=True):
    start: float
    end: float
    text: str


class Transcript(msgspec.Struct, frozen=True):
    text: str
    duration: float | str = 0.0
    segments: list[Segment] | None = None


_decode = msgspec.json.Decoder(Transcript).decode


class TranscriptAnswer(WholeAnswer):
    """A `StreamTranslator` that turns a transcript into another format."""

    __slots__ = ("_format",)

    def __init__(self, name: str, write: Callable[[Transcript], str]) -> None:
        super().__init__(name, read_transcript)
        self._format = write

    def finish(self) -> bytes:
        body = super().finish()
        if not self.done:
            return body
        try:
            return self._format(_decode(body)).encode()
        except msgspec.ValidationError:
            self.done, self.failure = False, StreamFailure(502, INVALID)
            return b""


class TranscriptStream(ChunkStream):
    """Adds the fields of OpenAI's events to vLLM's, so that clients of either understand them."""

    __slots__ = ("_texts",)

    def __init__(self, name: str, choices: int, include_usage: bool) -> None:
        super().__init__(name, choices, include_usage)
        self._texts: list[str] = []

    def passed(self, data: bytes, count: int) -> bytes | None:
        return None

    def read(self, event: bytes, payload: bytes) -> bytes:
        relayed = super().read(event, payload)
        if self.failure is not None or not relayed:
            return relayed
        if self.done:
            return self._whole_text() + relayed
        text = _text(api.decode_chunk(payload))
        if text is None:
            return relayed
        self._texts.append(text)
        return b'%b,"type":"transcript.text.delta","delta":%b}\n\n' % (relayed.rstrip()[:-1], api.encode(text))

    def end(self) -> bytes:
        rest = super().end()
        return self._whole_text() + rest if rest else rest

    def _whole_text(self) -> bytes:
        done = {"object": "transcription.chunk", "model": self.name, "choices": [], "type": "transcript.text.done"}
        return b"data: %b\n\n" % api.encode({**done, "text": "".join(self._texts)})


def _text(chunk: api.VllmChunk) -> str | None:
    """Return the text of an event; None if it has none, such as the usage."""
    if not chunk.choices or chunk.choices[0].delta is None:
        return None
    return chunk.choices[0].delta.content or ""


def _plain(transcript: Transcript) -> str:
    return f"{transcript.text}\n"


def _srt(transcript: Transcript) -> str:
    cues = (
        f"{number}\n{_time(each.start, ',')} --> {_time(each.end, ',')}\n{_line(each)}\n\n"
        for number, each in enumerate(_segments(transcript), 1)
    )
    return "".join(cues)


def _vtt(transcript: Transcript) -> str:
    cues = (f"{_time(each.start, '.')} --> {_time(each.end, '.')}\n{_line(each)}\n\n" for each in _segments(transcript))
    return "WEBVTT\n\n" + "".join(cues)


WRITERS: Final[Mapping[str, Callable[[Transcript], str]]] = {"text": _plain, "srt": _srt, "vtt": _vtt}
"""By `response_format`, for those that vLLM does not write."""


def _segments(transcript: Transcript) -> list[Segment]:
    if transcript.segments is None:
        return [Segment(0.0, _seconds(transcript.duration), transcript.text)]
    return [each for each in transcript.segments if each.text.strip()]


def _seconds(duration: float | str) -> float:
    """Some releases of vLLM send it as a text."""
    try:
        return float(duration)
    except ValueError:
        return 0.0


def _line(segment: Segment) -> str:
    """Return the text in one line, because an empty one ends a cue."""
    return " ".join(segment.text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
