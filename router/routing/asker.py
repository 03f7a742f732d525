"""Traits of the client and of its request, by which rules split requests and keep sessions.

A trait is read when a rule asks for it: most rules ask for none, and their requests have no `Asker`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vllama_pool.router.routing.opening import opening_digest, user_of

CONVERSATION_HEADERS = (b"x-session-id", b"x-conversation-id", b"x-openwebui-chat-id")
USER_HEADERS = (b"x-openwebui-user-id", b"x-user-id")
"""In order of preference."""
HEADER = "header:"
"""Begin of a trait that names a request header."""

NO_HEADERS: Mapping[bytes, bytes] = MappingProxyType({})


class Asker:
    """The client of one request, and the request's conversation. Each trait is read at most once."""

    __slots__ = ("_conversation", "_headers", "_request", "_user", "client", "key")

    def __init__(
        self, request: Any, headers: Mapping[bytes, bytes] = NO_HEADERS, *, key: str = "", client: str = ""
    ) -> None:
        """`request`: decoded, of any protocol. `headers`: by lower-case name, the first of repeated ones."""
        self._request = request
        self._headers = headers
        self.key = key
        """The API key's name; "" for an anonymous request."""
        self.client = client
        """The peer's address; "" on a Unix socket."""
        self._user: str | None = None
        self._conversation: str | None = None

    def __repr__(self) -> str:
        return f"<Asker key={self.key!r} client={self.client!r}>"

    @property
    def user(self) -> str:
        """The end user that the body or a header names, else the key, else the client's address."""
        if self._user is None:
            self._user = user_of(self._request) or self._first(USER_HEADERS) or self.key or self.client
        return self._user

    @property
    def conversation(self) -> str:
        """The conversation's id in a header, else a digest of its system text and first user message, else the user."""
        if self._conversation is None:
            named = self._first(CONVERSATION_HEADERS)
            self._conversation = named or opening_digest(self._request) or self.user
        return self._conversation

    def header(self, name: str) -> str:
        """Return a header's value; "" if it is absent."""
        return self._headers.get(name.lower().encode("latin-1", "replace"), b"").decode("latin-1").strip()

    def identity(self, by: str) -> str:
        """Return the trait `by` ("user", "key", "client", "conversation", "header:NAME"); "" if the request has none.

        A request without a key is identified by the client's address.
        """
        read = _TRAITS.get(by)
        return read(self) if read is not None else self.header(by.removeprefix(HEADER))

    def _first(self, names: tuple[bytes, ...]) -> str:
        headers = self._headers
        return next((headers[name].decode("latin-1").strip() for name in names if headers.get(name)), "")


_TRAITS: Mapping[str, Callable[[Asker], str]] = MappingProxyType(
    {
        "user": lambda asker: asker.user,
        "key": lambda asker: asker.key or asker.client,
        "client": lambda asker: asker.client,
        "conversation": lambda asker: asker.conversation,
    }
)
