from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.protocol.openai.audio.transcripts import INVALID, WRITERS, TranscriptAnswer
from vllama_pool.router.protocol.vllm.whole_answer import NOT_AN_ANSWER

SEGMENTS = [
    {"start": 0.0, "end": 1.5, "text": " Hello\n\nthere -->", "id": 0, "tokens": [1]},
    {"start": 3661.0004, "end": 3662.9996, "text": "you", "id": 1},
]


def written(name: str, **fields: Any) -> str:
    translator = TranscriptAnswer("x", WRITERS[name])
    document = json.dumps({"text": "Hello there", **fields}).encode()
    assert translator.feed(document[:9]) + translator.feed(document[9:]) == b""
    body = translator.finish()
    assert translator.done
    return body.decode()


def test_a_text_is_the_transcript_alone() -> None:
    assert written("text", usage={"type": "duration", "seconds": 2}) == "Hello there\n"
    assert written("text", text="é") == "é\n"


def test_subtitles_have_one_cue_per_segment() -> None:
    assert written("srt", segments=SEGMENTS, duration=2.0) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there ->\n\n2\n01:01:01,000 --> 01:01:03,000\nyou\n\n"
    )
    assert written("vtt", segments=SEGMENTS, duration="2.0") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there ->\n\n01:01:01.000 --> 01:01:03.000\nyou\n\n"
    )


@pytest.mark.parametrize(("duration", "end"), [(2.5, "02.500"), ("2.5", "02.500"), ("soon", "00.000"), (-1, "00.000")])
def test_a_transcript_without_segments_is_one_cue(duration: float | str, end: str) -> None:
    assert written("vtt", segments=None, duration=duration) == (
        f"WEBVTT\n\n00:00:00.000 --> 00:00:{end}\nHello there\n\n"
    )


def test_silent_segments_are_no_cues() -> None:
    assert written("vtt", segments=[{"start": 0, "end": 1, "text": " "}]) == "WEBVTT\n\n"
    assert (written("srt", segments=[]), written("vtt", segments=[])) == ("", "WEBVTT\n\n")


@pytest.mark.parametrize("document", [b'{"text":5}', b"{}", b'{"text":"a","segments":[{}]}'])
def test_an_invalid_transcript_fails(document: bytes) -> None:
    translator = TranscriptAnswer("x", WRITERS["srt"])
    translator.feed(document)
    assert translator.finish() == b""
    assert not translator.done
    assert translator.failure is not None
    assert translator.failure.status == 502
    assert translator.failure.text in (INVALID, NOT_AN_ANSWER.text)


def test_a_document_that_is_cut_off_fails() -> None:
    translator = TranscriptAnswer("x", WRITERS["text"])
    translator.feed(b'{"text":"a')
    assert translator.finish() == b""
    assert translator.failure is not None
