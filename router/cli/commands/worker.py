"""`vllama worker`: run one vLLM."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from vllama_pool.config.log_config import configure_logging
from vllama_pool.config.settings import WorkerSettings
from vllama_pool.router.cli.commands.common import PASS_ON, export, read, warn_of_unknown
from vllama_pool.workers.agent.agent import run_agent
from vllama_pool.workers.agent.command_line import ENGINES, AgentSpec
from vllama_pool.workers.process.status import STATUS_FD


@click.command("worker", context_settings=PASS_ON, short_help="Run one vLLM and announce it to the routers.")
@click.option("--model", help="Model folder, or a name such as Qwen/Qwen3-8B.")
@click.option("--name", help="Worker name, unique in the fleet (default: made of model, host and port).")
@click.option(
    "--advertise",
    metavar="HOST",
    help="Address at which routers reach this machine; vLLM listens there (default: 127.0.0.1).",
)
@click.option("--port", type=click.IntRange(1, 65535), help="vLLM's port (default: 8100, or the next free port).")
@click.option("--attach", metavar="URL", help="Announce a vLLM that already runs, instead of starting one.")
@click.option(
    "--redis-url", metavar="URL", help="Use this Redis instead of the embedded registry. REDIS_URL sets it too."
)
@click.option("--tag", "tags", multiple=True, help="Tag of this worker. Repeatable.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default="vllm", help="simulated: needs no model and no GPU, for tests."
)
@click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")
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
    """Run one vLLM, announce it to the routers of its fleet, and keep it running.

    It may start before the router. Other flags are passed to vLLM, such as --gpu-memory-utilization 0.3.

    vLLM's parsers for tool calls and thinking are chosen from the model's files. Override them with --tool-call-parser
    and --reasoning-parser; "none" disables one.
    """
    if engine == "simulated" and not attach:
        model = model or "simulated"
    spec = AgentSpec(
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
        warn_of_unknown()
    settings = read(WorkerSettings)
    configure_logging(settings.log_level)
    sys.exit(asyncio.run(run_agent(spec, settings)))
