"""OpenAI's completions."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.v1_requests import COMPLETIONS, ask, choice, counts, refused, whole
from vllama_pool.router.compat.event_stream import chunks
from vllama_pool.router.compat.expect import expect, field, same
from vllama_pool.router.compat.server import CheckedServer

REASONS = ("stop", "length")


async def answer(server: CheckedServer, **fields: Any) -> tuple[str, str]:
    """The text of a whole answer, and its finish_reason."""
    only = choice(await whole(server, COMPLETIONS, **fields))
    reason = field(only, "finish_reason", str)
    expect(reason in REASONS, "finish_reason stop or length", reason)
    return field(only, "text", str), reason


@covers(28, 115)
async def completions_answers(server: CheckedServer) -> None:
    found = await whole(server, COMPLETIONS)
    same("object", "text_completion", field(found, "object", str))
    expect(field(found, "id", str).startswith("cmpl-"), "an id like cmpl-…", found["id"])
    expect(field(found, "created", int) > 0, "created in seconds", found["created"])
    counts(field(found, "usage", dict), "prompt_tokens", "completion_tokens")
    text, _ = await answer(server)
    expect(text, "some text", found)


@covers(28, 115)
async def completions_stream_chunks(server: CheckedServer) -> None:
    found = chunks(await ask(server, COMPLETIONS, stream=True))
    reasons = []
    texts = []
    for chunk in found:
        same("object", "text_completion", field(chunk, "object", str))
        same("model", server.model("chat"), field(chunk, "model", str))
        same("id", found[0].get("id"), field(chunk, "id", str))
        expect(chunk.get("usage") is None, "no usage", chunk)
        only = choice(chunk)
        texts.append(field(only, "text", str))
        reasons.append(only.get("finish_reason"))
    expect(any(texts), "some text", found)
    expect(not any(reasons[:-1]) and reasons[-1] in REASONS, "finish_reason on the last chunk alone", reasons)


@covers(115)
async def a_completion_stream_ends_with_its_usage_if_asked(server: CheckedServer) -> None:
    """Chunks before the last may have none, or one of zeros."""
    found = chunks(await ask(server, COMPLETIONS, stream=True, stream_options={"include_usage": True}))
    expect(len(found) >= 2, "several chunks", found)
    same("choices of the last chunk", [], field(found[-1], "choices", list))
    counts(field(found[-1], "usage", dict), "prompt_tokens", "completion_tokens")
    for chunk in found[:-1]:
        usage = chunk.get("usage") or {}
        expect(not any(usage.values()), "no usage before the end", usage)


@covers(115)
async def max_tokens_bounds_a_completion(server: CheckedServer) -> None:
    found = await whole(server, COMPLETIONS, max_tokens=3)
    same("completion_tokens", 3, counts(field(found, "usage", dict), "prompt_tokens", "completion_tokens"))
    _, reason = await answer(server, max_tokens=3)
    same("finish_reason", "length", reason)


@covers(115)
async def completions_stop_at_a_text_or_a_list_of_them(server: CheckedServer) -> None:
    text, _ = await answer(server)
    words = text.split()
    expect(words, "some words", text)
    stop = words[len(words) // 2]
    for value in (stop, [stop]):
        found, _ = await answer(server, stop=value)
        expect(stop not in found, f"nothing from {stop!r} on", found)


@covers(115)
async def completions_accept_parameters(server: CheckedServer) -> None:
    await answer(server, top_p=0.9, frequency_penalty=0.1, presence_penalty=0.1, seed=7, n=1, user="u")


def refuses(name: str, **fields: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        refused(COMPLETIONS, await ask(server, COMPLETIONS, **fields), 400)

    return Check(frozenset({115}), f"completions refuses {name}", run)


REFUSED = (
    refuses("a stop that is not a text", stop=[1]),
    refuses("a prompt of the wrong type", prompt={"text": "x"}),
    refuses("a limit that is not a number", max_tokens="many"),
)
