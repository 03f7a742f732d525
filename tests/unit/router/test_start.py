"""Modules that a start of `vllama serve` does without, since imports are most of its time."""

from __future__ import annotations

import subprocess
import sys

import pytest

READERS = {"vllama_pool.config.routing.schema", "vllama_pool.config.routing.yaml_document"}
"""Of routing files."""
ROUTERS = {"litestar", "uvicorn", "uvloop", "httpx", "redis", "vllama_pool.router.app", "vllama_pool.router.compat"}
AGENTS = {"vllama_pool.workers.agent.agent", "vllama_pool.workers.vllm.abilities"}


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("vllama_pool.router.cli.main", {"pydantic", "asyncio", "importlib.metadata"}),
        ("vllama_pool.router.cli.commands.serve", {*READERS, *ROUTERS, *AGENTS, "yaml", "rich.console"}),
        ("vllama_pool.router.process", {*READERS, *AGENTS - {"vllama_pool.workers.vllm.abilities"}}),
    ],
)
def test_a_process_starts_without_the_modules_that_only_others_need(module: str, unneeded: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert module in loaded
    assert unneeded.isdisjoint(loaded)


def test_garbage_is_collected_from_the_end_of_the_start_on_but_seldom() -> None:
    program = """if True:
        import gc
        from vllama_pool.router import process, start
        process.main = lambda: states.append(gc.isenabled())
        states = []
        start.main()
        process.collect_less_garbage()
        print(*states, gc.isenabled(), gc.get_threshold()[0] > 700)
        """
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout == "False True True\n"
