"""OpenAI's transcriptions."""

from __future__ import annotations

import struct

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.v1_requests import Route, is_json, refused
from vllama_pool.router.compat.expect import expect, field, json_object, status
from vllama_pool.router.compat.server import ABSENT_MODEL, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

TRANSCRIPTIONS = Route("/v1/audio/transcriptions", frozenset({33}), {}, use="audio", streams=False)
BOUNDARY = "vllama-compat-boundary"
RATE = 16000
"""Samples of a second."""


def recording() -> bytes:
    """A second of silence, as WAV."""
    samples = bytes(2 * RATE)
    shape = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(samples))
        + b"WAVEfmt "
        + shape
        + (b"data" + struct.pack("<I", len(samples)) + samples)
    )


def form(fields: dict[str, str], audio: bytes | None) -> bytes:
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if audio is not None:
        parts.append(b'name="file"; filename="speech.wav"\r\nContent-Type: audio/wav\r\n\r\n' + audio)
    lines = [f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


async def transcribe(server: CheckedServer, fields: dict[str, str], audio: bytes | None) -> RawResponse:
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return await server.send("POST", TRANSCRIPTIONS.path, form(fields, audio), headers=kind)


def refuses(name: str, text: str, fields: dict[str, str], audio: bytes | None) -> Check:
    async def run(server: CheckedServer) -> None:
        refused(TRANSCRIPTIONS, await transcribe(server, fields, audio), 400, text)

    return Check(frozenset({33, 119}), f"audio/transcriptions refuses {name}", run)


REFUSED = (
    refuses("a form without a model", "model is required", {"language": "en"}, recording()),
    refuses("an empty model", "model is required", {"model": ""}, recording()),
    refuses("a form without a file", "file is required", {"model": ABSENT_MODEL}, None),
    refuses("an empty file", "audio file is empty", {"model": ABSENT_MODEL}, b""),
)


@covers(119)
async def transcriptions_need_a_form(server: CheckedServer) -> None:
    response = await server.send("POST", TRANSCRIPTIONS.path, b"{}", headers={"Content-Type": "application/json"})
    refused(TRANSCRIPTIONS, response, 400)


@covers(119, 148)
async def transcriptions_report_an_unknown_model(server: CheckedServer) -> None:
    refused(TRANSCRIPTIONS, await transcribe(server, {"model": ABSENT_MODEL}, recording()), 404, ABSENT_MODEL)


@covers(33, 119)
async def transcriptions_answers(server: CheckedServer) -> None:
    """A recording of silence may have no text."""
    fields = {"model": server.model("audio"), "language": "en", "prompt": "A greeting."}
    response = await transcribe(server, fields, recording())
    is_json(response)
    field(json_object(response), "text", str)


@covers(119)
async def transcriptions_may_be_plain_text(server: CheckedServer) -> None:
    fields = {"model": server.model("audio"), "response_format": "text"}
    response = await transcribe(server, fields, recording())
    status(response, 200)
    kind = response.header("content-type") or ""
    expect(kind.startswith("text/plain"), "Content-Type text/plain", kind)
