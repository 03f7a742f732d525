"""Requests of commands to a running router's /admin routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import click
import httpx
import msgspec

from vllama_pool.config.printable import printable
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.cli.commands.common import CommandFailed, read, unreachable
from vllama_pool.router.supervisor.listening_socket import url
from vllama_pool.workers.vllm.connection_problem import explain, explain_protocol_error
from vllama_pool.workers.vllm.trust_store import trust_store

TIMEOUT = 5.0
"""Seconds."""

T = TypeVar("T")

url_option = click.option(
    "--url",
    "base_url",
    metavar="URL",
    help="URL of the router (default: VLLAMA_HOST or OLLAMA_HOST, else http://127.0.0.1:11434).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the router's JSON response.")


class ErrorBody(msgspec.Struct):
    error: str


class RouterRefused(CommandFailed):
    """The router answered with an error."""

    def __init__(self, message: str, status: int, body: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class RouterClient:
    """Asks one router, with the admin key of the settings."""

    def __init__(self, base_url: str | None) -> None:
        settings = read(RouterSettings)
        base_url = (base_url or url(settings.host, settings.port)).rstrip("/")
        self.base_url = base_url if "://" in base_url else f"http://{base_url}"
        key = settings.admin_key
        self._headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}

    def get(self, path: str, params: Mapping[str, str] | None = None) -> httpx.Response:
        """Raises CommandFailed if the router cannot be asked or refuses."""
        return self._send("GET", path, params=params)

    def post(self, path: str, body: bytes) -> httpx.Response:
        """Post JSON. Raises CommandFailed as `get`; RouterRefused for an error of the router."""
        return self._send("POST", path, content=body)

    def decode(self, answer: httpx.Response, kind: type[T]) -> T:
        """Raises CommandFailed for the answer of another server."""
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.MsgspecError as error:
            raise CommandFailed(f"{self.base_url} is not a vLLama router; give another --url ({error})") from error

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        tls = self.base_url.startswith("https:")
        try:
            answer = httpx.request(
                method,
                f"{self.base_url}{path}",
                headers=self._headers,
                timeout=TIMEOUT,
                trust_env=False,
                verify=trust_store() if tls else True,
                **content,
            )
        except httpx.InvalidURL:
            raise CommandFailed("--url is not a URL; write http://HOST:PORT") from None
        except httpx.HTTPError as error:
            invalid = isinstance(error, httpx.RemoteProtocolError)
            why = explain_protocol_error(str(error), tls=tls) if invalid else explain(error, tls=tls)
            cure = "start one with vllama serve, or give its address with --url"
            raise CommandFailed(unreachable("router", self.base_url, why, cure)) from error
        if answer.status_code != httpx.codes.OK:
            error_text = printable(error_of(answer.content))
            message = f"{self.base_url} answered {answer.status_code}: {error_text}"
            raise RouterRefused(message, answer.status_code, answer.content)
        return answer


def error_of(body: bytes) -> str:
    """Return an error's text, but not the pages of servers that are not a router."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error
    except msgspec.MsgspecError:
        return "that is not a vLLama router; give another --url"
