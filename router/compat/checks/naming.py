"""Model names (R169-R172)."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.config import names
from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.expect import Skipped, an_object, error, field, same
from vllama_pool.router.compat.server import ABSENT, CheckedServer


def parts(server: CheckedServer) -> names.Name:
    model = server.model("chat")
    try:
        return names.parse(model)
    except names.InvalidName:
        raise Skipped(f"{model} is not a valid name in Ollama") from None


def known_as(rule: int, name: str, spell: Callable[[names.Name], str]) -> Check:
    """A different spelling of an existing model."""

    async def ask(server: CheckedServer) -> None:
        spelled = spell(parts(server))
        for path in ("/api/generate", "/api/chat"):
            same("model", spelled, field(loaded(await server.post(path, {"model": spelled})), "model", str))
        field(await shown(server, spelled), "details", dict)

    return Check(frozenset({rule}), name, ask)


async def shown(server: CheckedServer, name: str) -> dict[str, object]:
    return an_object(await server.post("/api/show", {"model": name}))


def local(name: names.Name) -> str:
    """`x:local` is `x:latest`, `x:8b:local` is `x:8b`."""
    return f"{name.short.removesuffix(':latest')}:local"


SPELLINGS = (
    known_as(169, "the full name", lambda name: name.full),
    known_as(169, "namespace and name", lambda name: f"{name.namespace}/{name.model}:{name.tag}"),
    known_as(169, "blanks around", lambda name: f" {name.short} "),
    known_as(171, "capitals", lambda name: name.short.upper()),
    known_as(171, "small letters", lambda name: name.full.lower()),
    known_as(172, "what is here", local),
)


@covers(169)
async def latest_is_the_tag_of_names_without(server: CheckedServer) -> None:
    name = parts(server)
    if name.tag != "latest":
        raise Skipped("the model has a tag of its own")
    bare = name.short.removesuffix(":latest")
    whole = field(await shown(server, name.short), "details", dict)
    same("details", whole, field(await shown(server, bare), "details", dict))


@covers(169)
async def a_scheme_may_come_first(server: CheckedServer) -> None:
    loaded(await server.post("/api/generate", {"model": f"https://{parts(server).full}"}))


def no_name(text: str) -> Check:
    async def ask(server: CheckedServer) -> None:
        error(await server.post("/api/generate", {"model": text, "prompt": "x"}), 400, "invalid model name")

    return Check(frozenset({170}), f"{text!r} is not a name", ask)


NO_NAMES = tuple(
    no_name(text) for text in (":8b", "x:", "/x", "-x", ".x", "x y", "a.b/x", "x:la test", "x" * 81, "x@sha256", "é")
)


def a_name(text: str) -> Check:
    async def ask(server: CheckedServer) -> None:
        error(await server.post("/api/generate", {"model": text, "prompt": "x"}), 404, f"model '{text}' not found")

    return Check(frozenset({170}), f"{text!r} is a name", ask)


NAMES = tuple(
    a_name(text)
    for text in (f"Vllama/{ABSENT}-8B", f"_{ABSENT}.a_b", f"{ABSENT}:8b-q4_K_M.x", f"localhost:5000/a/{ABSENT}:1")
)
