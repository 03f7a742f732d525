"""Servers that are wrong on every route of /v1."""

from __future__ import annotations

from dataclasses import replace

from tests.support.compat.changes import Change, header, objects, status, text, without, without_header
from tests.support.compat.v1_checks import ACCEPTING, REFUSING, STREAMED, for_routes, named

WRONG_ROUTES: tuple[tuple[str, Change, tuple[str, ...]], ...] = (
    ("refuses everything", status(200, 400), ACCEPTING),
    ("is broken", status(200, 500), ACCEPTING),
    ("accepts everything", lambda response: replace(response, status=200), REFUSING),
    ("knows no fault of clients", lambda response: replace(response, status=500), REFUSING),
    (
        "has errors of /api",
        objects(lambda found: found.update({"error": "no"}) if "error" in found else None),
        REFUSING[:1],
    ),
    ("has errors of vLLM's kind", text("invalid_request_error", "BadRequestError"), named("refuses no messages")),
    (
        "has errors without a code",
        objects(lambda found: found.get("error") and found["error"].pop("code", 0)),
        ("chat/completions refuses an empty body",),
    ),
    ("has OpenAI's errors for Anthropic", without("type"), ("messages refuses an empty body", "messages needs model")),
    ("has errors in text", header("content-type", "text/plain"), for_routes("refuses an empty body")),
    ("names no cause", text("EOF", "no body"), for_routes("refuses an empty body")),
    (
        "hides the unknown name",
        text("vllama-compat-absent", "it"),
        (*for_routes("reports an unknown model"), "transcriptions_report_an_unknown_model"),
    ),
    ("has another cloud", text("ollama cloud", "our cloud"), for_routes("refuses cloud models without cloud")),
    ("tells nothing of names", text("invalid model name", "no"), for_routes("refuses an invalid name")),
    ("tells nothing of places", text(":local or :cloud", "one"), for_routes("refuses a name with :local and :cloud")),
    (
        "has one name for a model",
        text("chat:local", "chat:latest"),
        ("chat/completions finds a model by each of its names",),
    ),
    ("answers 400 for what is not there", status(404, 400), for_routes("reports an unknown model")),
    ("asks for the name of nothing", text("model", "it"), for_routes("needs a model")),
    (
        "names the worker's model",
        objects(lambda found: found.update(model="worker")),
        for_routes("names the model as requested"),
    ),
    (
        "streams JSON",
        header("content-type", "application/json"),
        (*for_routes("streams events", STREAMED), "responses_stream_events"),
    ),
    (
        "ends streams in the middle of an event",
        lambda response: replace(response, body=response.body[:-1]),
        for_routes("streams events", STREAMED),
    ),
    ("streams without chunks", lambda response: replace(response, chunks=None), for_routes("streams events", STREAMED)),
    ("says what it is", header("x-powered-by", "vLLM"), for_routes("sends no headers of its own")),
    ("names its server", header("server", "uvicorn"), for_routes("sends no headers of its own")),
    ("lets streams be cached", without_header("cache-control"), named("forbids caching")),
)
"""For each: what is wrong, the change, and the checks that differ."""
