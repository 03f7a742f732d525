"""config/examples/two-teams.yaml, followed by its comments, with simulated workers."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from click.testing import CliRunner

from tests.support.fleet.live import Fleet, fleet
from vllama_pool.config.routing.table import DEFAULT_FILE, parse
from vllama_pool.router.cli.main import main
from vllama_pool.workers.simulated.options import Options

EXAMPLE = DEFAULT_FILE.parent / "examples" / "two-teams.yaml"
BIG = Options(model="Qwen/Qwen3-8B", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)
SMALL = Options(model="Qwen/Qwen3-1.7B", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)


def new_key(name: str) -> tuple[str, str]:
    """Return the secret and the digest that `vllama key new` prints."""
    lines = CliRunner().invoke(main, ["key", "new", name]).output
    return lines.split("for the client:")[1].split()[0], lines.split("sha256:")[1].split()[0]


async def names(running: Fleet, headers: dict[str, str]) -> list[str]:
    tags = await running.http.get("/api/tags", headers=headers)
    return sorted(model["name"] for model in tags.json()["models"])


async def chat(running: Fleet, model: str, headers: dict[str, str]) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": False}
    return await running.http.post("/api/chat", json=body, headers=headers)


async def test_the_example_does_what_its_comments_say(tmp_path: Path) -> None:
    text, secrets = EXAMPLE.read_text(), {}
    for name in ("anna", "helpdesk", "website"):
        secrets[name], digest = new_key(name)
        text = re.sub(rf"(  {name}:[^\n]*\n    sha256: )[0-9a-f]{{64}}", rf"\g<1>{digest}", text)
    copy = tmp_path / "two-teams.yaml"
    copy.write_text(text)
    checked = CliRunner().invoke(main, ["check", str(copy)])
    assert checked.exit_code == 0, checked.output
    anna, helpdesk, website = ({"authorization": f"Bearer {secret}"} for secret in secrets.values())
    async with fleet(tmp_path / "state", {"a": BIG, "b": SMALL}, table=parse(text.encode())) as running:
        assert await names(running, helpdesk) == await names(running, website) == ["faq:latest"]
        assert set(await names(running, anna)) > {"assistant:latest", "faq:latest"}
        for model, headers, status in (
            ("qwen3:8b", anna, 200),
            ("faq", anna, 200),
            ("faq", website, 200),
            ("assistant", helpdesk, 404),
            ("Qwen/Qwen3-1.7B", helpdesk, 404),
            ("faq", {}, 401),
        ):
            assert (await chat(running, model, headers)).status_code == status, model
        metrics = (await running.http.get("/metrics")).text
        assert 'vllama_key_requests_total{key="anna",team="research"} 2.0' in metrics
        assert 'vllama_key_requests_total{key="website",team="support"} 1.0' in metrics
