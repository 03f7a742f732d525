"""The command line: `vllama serve | worker | ps | check | compat | key`.

Only the commands read the environment and build settings. Whatever is wrong is one line on stderr, and an exit
code that is not 0.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

import click

COMMANDS = ("serve", "worker", "ps", "check", "compat", "key")
"""Modules of `router.cli.commands`, in the order in which the help names them."""


class Commands(click.Group):
    """Loads a command when it is called: most need little of what the others do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"vllama_pool.router.cli.commands.{cmd_name}").command
        return found


@click.group(cls=Commands)
@click.version_option(version("vllama-pool"), prog_name="vllama", message="%(prog)s %(version)s")
def main() -> None:
    """One Ollama URL in front of a pool of vLLM servers."""


if __name__ == "__main__":
    main(prog_name="vllama")
