"""Options: unknown names are ignored, wrong types are errors."""

from __future__ import annotations

from vllama_pool.router.compat.checks.answers import NATIVE, text, whole
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.checks.structured import OBJECT, is_object
from vllama_pool.router.compat.expect import error, expect, field, parsed, same
from vllama_pool.router.compat.server import SHORT, CheckedServer

NUMBER, INTEGER, BOOLEAN = "of type float32", "of type integer", "of type boolean"
TYPES = (
    (126, "num_predict", INTEGER),
    (127, "temperature", NUMBER),
    (128, "top_k", INTEGER),
    (129, "top_p", NUMBER),
    (130, "min_p", NUMBER),
    (131, "typical_p", NUMBER),
    (132, "repeat_penalty", NUMBER),
    (133, "repeat_last_n", INTEGER),
    (134, "presence_penalty", NUMBER),
    (135, "frequency_penalty", NUMBER),
    (136, "seed", INTEGER),
    (138, "num_ctx", INTEGER),
    (139, "num_keep", INTEGER),
    (140, "num_batch", INTEGER),
    (141, "num_gpu", INTEGER),
    (141, "main_gpu", INTEGER),
    (141, "num_thread", INTEGER),
    (141, "use_mmap", BOOLEAN),
    (142, "draft_num_predict", INTEGER),
)
"""(rule, option, required type)"""
DROPPED = ("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "penalize_newline", "numa", "low_vram", "f16_kv")
SAMPLING = {
    "temperature": 0,
    "top_k": 40.0,
    "top_p": 0.9,
    "min_p": 0,
    "typical_p": 1,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 7.0,
    "stop": ["vllama-compat"],
    "num_predict": 4,
}
"""Every option that does not reload the model. Integers may be floats."""


def strict(rule: int, option: str, kind: str) -> Check:
    """A string instead of another type."""

    async def run(server: CheckedServer) -> None:
        for path, prompt in (("/api/generate", {"prompt": "x"}), ("/api/chat", {"messages": []})):
            response = await server.post(path, {"model": server.model("chat"), **prompt, "options": {option: "x"}})
            error(response, 500, f'option "{option}" must be {kind}')

    return Check(frozenset({rule, 153}), f"the type of {option}", run)


STRICT = tuple(strict(*each) for each in TYPES)


@covers(137, 153)
async def stop_must_be_a_list_of_strings(server: CheckedServer) -> None:
    for value, kind in (("x", "of type array"), ([1], "of an array of strings")):
        error(await server.generate(options={"stop": value}), 500, f'option "stop" must be {kind}')


@covers(127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137)
async def every_sampling_option_is_accepted(server: CheckedServer) -> None:
    await whole(server, "generate", options=SAMPLING)


@covers(217)
async def num_predict_of_0_or_less_is_no_limit(server: CheckedServer) -> None:
    """The format ends the answer."""
    for endpoint in NATIVE:
        for limit in (-1, -2, 0):
            options = {**SHORT, "num_predict": limit}
            found = await whole(server, endpoint, format=OBJECT, think=False, options=options)
            same("done_reason", "stop", field(found, "done_reason", str))
            is_object(parsed(text(endpoint, found).encode()), "ok")


@covers(137)
async def the_answer_ends_before_a_stop_string(server: CheckedServer) -> None:
    aloud = {"think": False} if "thinking" in await whole(server, "generate") else {}
    words = field(await whole(server, "generate", **aloud), "response", str).split()
    expect(words, "some words", words)
    stop = words[len(words) // 2]
    found = field(await whole(server, "generate", options={**SHORT, "stop": [stop]}, **aloud), "response", str)
    expect(stop not in found, f"nothing from {stop!r} on", found)


@covers(143)
async def dropped_options_are_ignored(server: CheckedServer) -> None:
    options = dict.fromkeys(DROPPED, "whatever")
    loaded(await server.post("/api/generate", {"model": server.model("chat"), "options": options}))


@covers(60, 143)
async def options_may_be_null(server: CheckedServer) -> None:
    """LangChain sends null options."""
    options = {option: None for _, option, _ in TYPES}
    loaded(await server.post("/api/generate", {"model": server.model("chat"), "options": options}))
