"""The command line. Only commands read the environment."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from vllama_pool.config.redaction import redacted

COMMANDS = ("serve", "worker", "ps", "drain", "undrain", "check", "explain", "compat", "key")
"""Modules of `router.cli.commands`, in the order of the help."""


class Commands(click.Group):
    """Imports a command's module on use, so that each command starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"vllama_pool.router.cli.commands.{cmd_name}").command
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Click's errors quote words of the command line, which may be an address with a password."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.message = redacted(error.message)  # type: ignore[misc]
            raise


@click.group(cls=Commands)
@click.version_option(package_name="vllama-pool", prog_name="vllama", message="%(prog)s %(version)s")
def main() -> None:
    """One Ollama URL in front of a pool of vLLM servers.

    \b
    vllama serve --model Qwen/Qwen3-0.6B        # http://127.0.0.1:11434
    vllama COMMAND --help                       # options of a command
    """


if __name__ == "__main__":
    main(prog_name="vllama")
