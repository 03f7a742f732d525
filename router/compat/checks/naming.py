"""Model names."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.config import names
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.requests import loaded, show
from vllama_pool.router.compat.expect import Skipped, error, field, same
from vllama_pool.router.compat.server import ABSENT_MODEL, CheckedServer


def parts(server: CheckedServer) -> names.Name:
    model = server.model("chat")
    try:
        return names.parse(model)
    except names.InvalidName:
        raise Skipped(f"{model} is not a valid name in Ollama") from None


def is_spelling(rule: int, name: str, spell: Callable[[names.Name], str]) -> Check:

    async def run(server: CheckedServer) -> None:
        spelled = spell(parts(server))
        for path in ("/api/generate", "/api/chat"):
            same("model", spelled, field(loaded(await server.post(path, {"model": spelled})), "model", str))
        field(await show(server, spelled), "details", dict)

    return Check(frozenset({rule}), name, run)


def local(name: names.Name) -> str:
    """`x:local` is `x:latest`, `x:8b:local` is `x:8b`."""
    return f"{name.short.removesuffix(':latest')}:local"


SPELLINGS = (
    is_spelling(169, "the full name", lambda name: name.full),
    is_spelling(169, "namespace and name", lambda name: f"{name.namespace}/{name.model}:{name.tag}"),
    is_spelling(169, "blanks around", lambda name: f" {name.short} "),
    is_spelling(171, "capitals", lambda name: name.short.upper()),
    is_spelling(171, "small letters", lambda name: name.full.lower()),
    is_spelling(172, "what is here", local),
)


@covers(169)
async def a_name_without_a_tag_means_latest(server: CheckedServer) -> None:
    name = parts(server)
    if name.tag != "latest":
        raise Skipped("the model has a tag of its own")
    bare = name.short.removesuffix(":latest")
    whole = field(await show(server, name.short), "details", dict)
    same("details", whole, field(await show(server, bare), "details", dict))


@covers(169)
async def a_name_may_begin_with_a_scheme(server: CheckedServer) -> None:
    loaded(await server.post("/api/generate", {"model": f"https://{parts(server).full}"}))


def is_invalid(text: str) -> Check:
    async def run(server: CheckedServer) -> None:
        error(await server.post("/api/generate", {"model": text, "prompt": "x"}), 400, "invalid model name")

    return Check(frozenset({170}), f"{text!r} is not a name", run)


INVALID_NAMES = tuple(
    is_invalid(text) for text in (":8b", "x:", "/x", "-x", ".x", "x y", "a.b/x", "x:la test", "x" * 81, "x@sha256", "é")
)


def is_valid(text: str) -> Check:
    async def run(server: CheckedServer) -> None:
        error(await server.post("/api/generate", {"model": text, "prompt": "x"}), 404, f"model '{text}' not found")

    return Check(frozenset({170}), f"{text!r} is a name", run)


VALID_NAMES = tuple(
    is_valid(text)
    for text in (
        f"Vllama/{ABSENT_MODEL}-8B",
        f"_{ABSENT_MODEL}.a_b",
        f"{ABSENT_MODEL}:8b-q4_K_M.x",
        f"localhost:5000/a/{ABSENT_MODEL}:1",
    )
)
