"""Transcripts in the formats of the client: JSON as vLLM writes it, plain text, or subtitles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from vllama_pool.router.protocol.operation import StreamFailure
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer

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
        super().__init__(name)
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
    return transcript.segments


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
