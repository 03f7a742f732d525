"""Images through a live router to a real vLLM with a vision model, and to one without."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.until import auntil
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.models import ModelChoice
from vllama_pool.router.compat.runner import Result, run_check
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import parse_url

MODEL = "tiny-vision"
TOKENS_PER_IMAGE = 4
VISION_CHECKS = [check for check in CHECKS if check.name.endswith(("accept_images", "accepts_images"))]
JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAKBueIx4ZKCMgoy0qqC+8P//8Nzc8P//////////////////////////////////////////////////"
    "////////2wBDAaq0tPDS8P//////////////////////////////////////////////////////////////////////////////wAARCAAQABAD"
    "ASAAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAH/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFAEBAAAAAAAAAAAAAAAAAAAAAv/EABQRAQAA"
    "AAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AIAJv//Z"
)
WEBP = "UklGRjAAAABXRUJQVlA4ICQAAABwAQCdASoQABAACQCsJaACdAFAAAD+u7eqqevxu9St+uiVAAA="


def png(width: int, height: int) -> str:
    """A single-coloured PNG, in base64."""
    rows = b"".join(b"\0" + b"\xc8\x50\x1e" * width for _ in range(height))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


IMAGES = {"png": png(16, 16), "wide png": png(300, 40), "jpeg": JPEG, "webp": WEBP}


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


async def tags(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = (await http.get("/api/tags")).json()["models"]
    return models


def client(systems: OneSystem, server: VllmServer) -> httpx.AsyncClient:
    """A client of a router over this server, which an agent attaches."""
    return httpx.AsyncClient(base_url=systems.url(server), trust_env=False, timeout=ANSWER_TIMEOUT)


@pytest.fixture
async def http(systems: OneSystem, tiny_vision_vllm: VllmServer) -> AsyncIterator[httpx.AsyncClient]:
    async with client(systems, tiny_vision_vllm) as vision_client:

        async def sees() -> bool:
            return "vision" in (await tags(vision_client))[0]["capabilities"]

        await auntil(sees, 60, "the model's vision to be detected")
        yield vision_client


async def ask(http: httpx.AsyncClient, path: str, images: list[str]) -> httpx.Response:
    body: dict[str, Any] = {"model": MODEL, "stream": False, "options": {"num_predict": 4, "temperature": 0}}
    if path == "/api/chat":
        return await http.post(path, json=body | {"messages": [{"role": "user", "content": "what?", "images": images}]})
    return await http.post(path, json=body | {"prompt": "what?", "images": images})


@pytest.mark.parametrize("check", VISION_CHECKS, ids=lambda check: check.name)
async def test_vision_checks_of_compat_pass(http: httpx.AsyncClient, check: Check) -> None:
    server = CheckedServer(parse_url(str(http.base_url)), ModelChoice(vision=MODEL), timeout=ANSWER_TIMEOUT)
    outcome = await run_check(server, check)
    assert outcome.result is Result.SAME, outcome.detail


@pytest.mark.rule(176)
async def test_a_vision_model_lists_its_capability_and_metadata(http: httpx.AsyncClient) -> None:
    [item] = await tags(http)
    assert item["capabilities"] == ["completion", "vision"]
    shown = (await http.post("/api/show", json={"model": MODEL})).json()
    assert shown["capabilities"] == ["completion", "vision"]
    assert shown["model_info"]["general.architecture"] == "idefics3"
    assert shown["model_info"]["idefics3.vision.image_size"] == 56
    assert shown["model_info"]["idefics3.context_length"] == 1024


@pytest.mark.rule(59, 75)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_every_image_adds_its_tokens_to_the_prompt_count(http: httpx.AsyncClient, path: str) -> None:
    text_only = (await ask(http, path, [])).json()
    for kind, image in IMAGES.items():
        answer = await ask(http, path, [image])
        assert answer.status_code == 200, f"{kind}: {answer.text}"
        assert answer.json()["prompt_eval_count"] >= text_only["prompt_eval_count"] + TOKENS_PER_IMAGE, kind
        assert answer.json()["done_reason"] in ("stop", "length")
    both = (await ask(http, path, [IMAGES["png"], IMAGES["jpeg"]])).json()
    assert both["prompt_eval_count"] >= text_only["prompt_eval_count"] + 2 * TOKENS_PER_IMAGE


@pytest.mark.rule(154)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_invalid_image_data_is_a_400(http: httpx.AsyncClient, path: str) -> None:
    refused = await ask(http, path, [base64.b64encode(b"no image at all").decode()])
    assert refused.status_code == 400
    assert "image" in refused.json()["error"]
    with_prefix = await ask(http, path, ["data:image/png;base64," + IMAGES["png"]])
    assert (with_prefix.status_code, with_prefix.json()) == (400, {"error": "illegal base64 data at input byte 4"})


@pytest.mark.rule(159)
async def test_a_model_without_vision_refuses_images(systems: OneSystem, smollm2_vllm: VllmServer) -> None:
    async with client(systems, smollm2_vllm) as http:
        [item] = await tags(http)
        assert item["capabilities"] == ["completion"]
        for path, fields in (
            ("/api/chat", {"messages": [{"role": "user", "content": "what?", "images": [IMAGES["png"]]}]}),
            ("/api/generate", {"prompt": "what?", "images": [IMAGES["png"]]}),
        ):
            refused = await http.post(path, json={"model": smollm2_vllm.model, **fields})
            assert refused.status_code == 400
            assert "does not support vision" in refused.json()["error"]
