"""`vllama worker`: run one vLLM."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from vllama_pool.config.log_config import configure_logging
from vllama_pool.config.settings import WorkerSettings
from vllama_pool.router.cli.commands.common import export, read, warn_about_variables
from vllama_pool.router.cli.commands.shared_options import (
    PASS_UNKNOWN_OPTIONS,
    engine_option,
    redis_url_option,
    vllm_flags,
)
from vllama_pool.workers.agent.agent import run_agent
from vllama_pool.workers.agent.command_line import WorkerSpec
from vllama_pool.workers.process.status import STATUS_FD


@click.command(
    "worker", context_settings=PASS_UNKNOWN_OPTIONS, short_help="Run one vLLM and register it with the routers."
)
@click.option("--model", metavar="MODEL", help="Model folder, or a name such as Qwen/Qwen3-8B.")
@click.option("--name", metavar="NAME", help="Unique worker name (default: made of model, host and port).")
@click.option(
    "--advertise",
    metavar="HOST",
    help="This machine's address for routers on other machines; vLLM listens on it (default: 127.0.0.1).",
)
@click.option("--port", type=click.IntRange(1, 65535), help="vLLM's port (default: the first free port from 8100).")
@click.option("--attach", metavar="URL", help="Register the running vLLM at this URL instead of starting one.")
@redis_url_option
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag in the worker's record. Repeatable.")
@engine_option
@vllm_flags
def command(
    model: str | None,
    name: str | None,
    advertise: str | None,
    port: int | None,
    attach: str | None,
    redis_url: str | None,
    tags: tuple[str, ...],
    engine: str,
    vllm_args: tuple[str, ...],
) -> None:
    """Run one vLLM, register it with the routers that share its registry, and keep it running.

    It may start before the router. Flags that are not listed below are passed to vLLM, such as --max-model-len 8192.

    vLLM's parsers for tool calls and thinking are chosen from the model's files. --tool-call-parser and
    --reasoning-parser override them; "none" disables one.
    """
    if engine == "simulated" and not attach:
        model = model or "simulated"
    spec = WorkerSpec(
        model=model or "",
        name=name or "",
        port=port,
        flags=vllm_args,
        attach=attach or "",
        engine=engine,
        tags=tags,
    )
    export({"VLLAMA_ADVERTISE": advertise, "VLLAMA_REDIS_URL": redis_url})
    if STATUS_FD not in os.environ:  # the supervisor has already warned
        warn_about_variables()
    settings = read(WorkerSettings)
    configure_logging(settings.log_level)
    sys.exit(asyncio.run(run_agent(spec, settings)))
