"""`vllama key`: create API keys."""

from __future__ import annotations

import hashlib
import json
import secrets

import click

from vllama_pool.config.api_keys import parse_keys
from vllama_pool.router.cli.commands.common import CommandFailed


@click.group("key")
def command() -> None:
    """Create API keys."""


@command.command("new", short_help="Create an API key.")
@click.argument("name")
def new_key(name: str) -> None:
    """Create an API key. NAME identifies its client in the router's log.

    The key is printed only here: the router stores its SHA-256.
    """
    secret = f"vllama-{secrets.token_urlsafe(32)}"
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    entry = f"{name}:{sha256}"
    try:
        parse_keys(entry)
    except ValueError:
        raise CommandFailed(f"{name!r} is not a valid key name; use letters, digits, '.', '_' and '-'") from None
    click.echo(f"for the client:  {secret}")
    click.echo(f"for the router:  VLLAMA_API_KEYS={entry}   (or a line of the file VLLAMA_API_KEYS_FILE)")
    click.echo("or the routing file:")
    click.echo(f"keys:\n  {json.dumps(name)}:\n    sha256: {sha256}")
