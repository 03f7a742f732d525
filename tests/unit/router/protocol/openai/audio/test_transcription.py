from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, DONE, MODEL, TIMING
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import BadRequest, ClientError, Refused
from vllama_pool.router.protocol.openai.audio import transcription
from vllama_pool.router.protocol.openai.audio.form import Form, FormFile, build_form, parse_form
from vllama_pool.router.protocol.vllm.errors import WRONG_TASK
from vllama_pool.workers.registry.record import ModelInfo

WHISPER = ModelInfo(name="org/whisper", capabilities=())
AUDIO = FormFile(b"RIFF\0\xff", "a.wav", "audio/wav")
PATH = "/v1/audio/transcriptions"
NO_WORKER = '"w" does not support transcription: use a speech-to-text model, such as Whisper'


def decoded(
    file: FormFile = AUDIO, fields: Sequence[tuple[str, str]] = (), name: str = "file", **more: str
) -> transcription.TranscriptionRequest:
    kind, body = build_form([("model", "w"), *fields, *more.items()], name, file)
    return transcription.decode_form(kind, body)


def sent(**fields: Any) -> Form:
    request = decoded(**fields)
    transcription.check(request, WHISPER)
    step = transcription.prepare(PATH, request, WHISPER, NO_DEFAULTS)
    assert (step.path, step.whole) == (PATH, not request.stream)
    return parse_form(step.content_type, step.body, 1000)


def refused(**fields: Any) -> ClientError:
    with pytest.raises(BadRequest) as caught:
        decoded(**fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.rule(33, 119)
def test_the_form_is_built_anew_with_the_served_name() -> None:
    form = sent(foo="dropped", **{"include[]": "logprobs"})
    assert form.files == {"file": AUDIO}
    assert (form.texts, form.lists) == ({"model": "org/whisper"}, {})


@pytest.mark.rule(119)
def test_the_fields_of_the_api_and_of_vllm_are_forwarded() -> None:
    fields = {
        "language": "en",
        "prompt": "A greeting.",
        "response_format": "verbose_json",
        "temperature": "0.25",
        "hotwords": "vLLama",
        "to_language": "de",
        "seed": "-7",
        "top_p": "0.5",
        "top_k": "3",
        "min_p": "0.1",
        "frequency_penalty": "0.2",
        "presence_penalty": "0.3",
        "repetition_penalty": "1.1",
        "max_completion_tokens": "9",
    }
    granularities = [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
    form = sent(fields=granularities, **fields)
    assert form.texts == {"model": "org/whisper", **fields}
    assert form.lists == {"timestamp_granularities": ["word", "segment"]}


def test_a_stream_asks_for_the_usage() -> None:
    assert sent(stream="true").texts == {"model": "org/whisper", "stream": "true", "stream_include_usage": "true"}
    assert sent(stream="1", stream_continuous_usage_stats="True").texts["stream_continuous_usage_stats"] == "true"
    whole = sent(stream="false", stream_include_usage="true").texts
    assert whole == {"model": "org/whisper", "stream": "false"}


@pytest.mark.parametrize(
    ("wanted", "asked"), [("srt", "verbose_json"), ("vtt", "verbose_json"), ("text", "text"), ("json", "json")]
)
def test_subtitles_are_made_from_the_verbose_format(wanted: str, asked: str) -> None:
    assert sent(response_format=wanted).texts["response_format"] == asked


@pytest.mark.rule(119)
def test_a_body_that_is_not_a_form_is_refused() -> None:
    with pytest.raises(BadRequest, match="this route takes a form; send multipart/form-data with 'model' and 'file'"):
        transcription.decode(b'{"model":"w"}')


@pytest.mark.rule(119, 146)
def test_missing_fields_are_refused_in_ollamas_words() -> None:
    assert (refused(fields=[("model", "x")], name="other").text).startswith("file is required: ")
    kind, body = build_form([], "file", FormFile(b"", "a"))
    with pytest.raises(BadRequest, match=r"^model is required$"):
        transcription.decode_form(kind, body)
    kind, body = build_form([("model", " ")], "file", AUDIO)
    with pytest.raises(BadRequest, match=r"^model is required$"):
        transcription.decode_form(kind, body)
    assert refused(file=FormFile(b"", "a.wav")).text == "audio file is empty"
    kind, body = build_form([("model", "w"), ("file", "text")], "other", AUDIO)
    with pytest.raises(BadRequest, match="file is required"):
        transcription.decode_form(kind, body)


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"temperature": "warm"}, "temperature", "Invalid type for 'temperature'"),
        ({"temperature": "nan"}, "temperature", "Invalid value for 'temperature': not a number."),
        ({"top_p": "inf"}, "top_p", "Invalid value for 'top_p': not a number."),
        ({"seed": "9" * 30}, "seed", "Invalid value for 'seed'"),
        ({"stream": "maybe"}, "stream", "Invalid type for 'stream'"),
        ({"response_format": "xml"}, "response_format", "Invalid value: 'xml'. Supported values are: 'json', 'text',"),
        ({"response_format": "srt", "stream": "true"}, "stream", "'stream' is not possible with the format 'srt'"),
        ({"response_format": "verbose_json", "stream": "1"}, "stream", "'stream' is not possible with"),
        ({"max_completion_tokens": "0"}, "max_completion_tokens", "Invalid 'max_completion_tokens': integer below"),
        ({"vllm_xargs": "{}"}, "vllm_xargs", "'vllm_xargs' is not accepted from clients: leave it out"),
        (
            {"timestamp_granularities[]": "line", "response_format": "verbose_json"},
            "timestamp_granularities[0]",
            "Invalid value for 'timestamp_granularities[0]'",
        ),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "'timestamp_granularities' needs the"),
    ],
)
def test_invalid_fields_are_refused_by_name(fields: dict[str, str], param: str, text: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert error.text.startswith(text)


@pytest.mark.parametrize(
    "info", [MODEL, ModelInfo(name="e", capabilities=("embedding",))], ids=lambda info: info.capabilities[0]
)
def test_models_without_audio_are_refused_with_the_kind_that_is_needed(info: ModelInfo) -> None:
    described = info if "embedding" in info.capabilities else ModelInfo(name="m", architecture="llama")
    with pytest.raises(BadRequest) as caught:
        transcription.check(decoded(), described)
    assert (caught.value.text, caught.value.param) == (NO_WORKER, "model")


def test_a_model_whose_files_are_unknown_is_tried_and_explained() -> None:
    transcription.check(decoded(), ModelInfo(name="m"))
    transcription.check(
        decoded(), ModelInfo(name="m", architecture="qwen2_audio", capabilities=("completion", "audio"))
    )
    with pytest.raises(Refused) as caught:
        transcription.adapt(decoded(), MODEL, NO_DEFAULTS, Refused(WRONG_TASK, status=404))
    assert (caught.value.status, caught.value.text) == (400, NO_WORKER)


@pytest.mark.rule(119)
@pytest.mark.parametrize(
    ("wanted", "kind", "answer"),
    [
        ("json", "application/json; charset=utf-8", '{"text":"Hi","duration":1}'),
        ("verbose_json", "application/json; charset=utf-8", '{"text":"Hi","duration":1}'),
        ("text", "text/plain; charset=utf-8", "Hi\n"),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,000 --> 00:00:01,000\nHi\n\n"),
        ("vtt", "text/plain; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nHi\n\n"),
    ],
)
def test_answers_have_the_format_that_the_client_asked_for(wanted: str, kind: str, answer: str) -> None:
    request = decoded(response_format=wanted)
    translator = transcription.translator(request, TIMING, CLOCK)
    translator.feed(b'{"text":"Hi","duration":1}')
    assert translator.finish().decode() == answer
    assert transcription.content_type(request) == kind


def sse(**fields: Any) -> bytes:
    """Return an event as vLLM writes it."""
    head = {"id": "trsc-1", "object": "transcription.chunk", "created": 1, "model": "org/whisper"}
    return b"data: " + msgspec.json.encode({**head, **fields}) + b"\n\n"


def chunk(text: str, finish: str | None = None) -> bytes:
    return sse(choices=[{"delta": {"content": text}, **({"finish_reason": finish} if finish else {})}])


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_passes_with_the_clients_name_and_the_usage_only_if_asked_for(asked: bool) -> None:
    request = decoded(stream="true", **({"stream_include_usage": "true"} if asked else {}))
    assert (request.stream, request.streams_answer) == (True, True)
    assert transcription.content_type(request) == "text/event-stream"
    translator = transcription.translator(request, TIMING, CLOCK)
    usage = sse(choices=[], usage={"prompt_tokens": 4, "completion_tokens": 2})
    out = b"".join(
        translator.feed(part) for part in (chunk("Hi"), chunk(" there", "stop"), chunk(" you", "stop"), usage, DONE)
    )
    events = [json.loads(line.removeprefix("data: ")) for line in out.decode().split("\n\n")[:-2]]
    assert {each["model"] for each in events} == {"w"}
    text = "".join(choice["delta"]["content"] for each in events for choice in each["choices"])
    assert text == "Hi there you"
    assert (b'"usage"' in out) is asked
    typed = [each for each in events if "type" in each]
    assert [each["type"] for each in typed] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert "".join(each.get("delta", "") for each in typed) == typed[-1]["text"] == text
    assert out.endswith(DONE)
    assert translator.done
    assert (translator.usage.prompt_tokens, translator.usage.completion_tokens) == (4, 2)
