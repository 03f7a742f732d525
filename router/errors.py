"""Errors, grouped by the next step.

Exception
├── ClientError              answered with this status and text, never retried
│   ├── BadRequest           400 (or another status of Ollama's for bad input)
│   ├── Unauthorized         401
│   ├── Forbidden            403
│   ├── ModelNotFound        404, in the endpoint's own words
│   ├── TooLarge             413
│   ├── UnknownEncoding      415: the body is compressed
│   ├── Poison               422: the request crashes engines
│   ├── NoWorker             503: the model is known, but no worker is available
│   ├── ServerBusy           503: too many requests are waiting
│   ├── Stopping             503: the router stops before the request is complete
│   └── TooManyRequests      429: the client's key or team has too many requests in progress
└── AttemptFailed            one attempt on one worker failed
    ├── Lost                 refused, reset, timed out, engine dead: another worker at once; this one is suspect
    ├── Busy                 429, or vLLM's admission 503: another worker; this one is healthy
    ├── Unavailable          502, 503, 504: another worker; counts against this one
    ├── Faulty               any other 500: one retry elsewhere; counts against this one
    ├── Unable               501: the worker lacks a route, or a proxy blocks it: another worker; this one is healthy
    ├── ModelGone            404 for a model in the worker's record: one retry elsewhere
    └── Refused              any other 4xx: the request is at fault, never retried
        └── ContextTooLong   400: the prompt exceeds the worker's context; a worker with a larger one may answer
"""

from __future__ import annotations


class ClientError(Exception):
    """An HTTP status and the text of Ollama's `error` field."""

    status = 500

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.param = param
        """The field at fault, for OpenAI's clients."""
        self.code = code
        """A word for programs, for OpenAI's clients."""
        self.retry_after = retry_after
        """Seconds for the Retry-After header, if waiting can help."""
        if status is not None:
            self.status = status


class BadRequest(ClientError):
    status = 400


class Unauthorized(ClientError):
    status = 401


class Forbidden(ClientError):
    status = 403


class ModelNotFound(ClientError):
    status = 404


class TooLarge(ClientError):
    status = 413


class UnknownEncoding(ClientError):
    status = 415


class Poison(ClientError):
    status = 422
    """SDKs do not retry it."""


class NoWorker(ClientError):
    status = 503

    def __init__(self, text: str, *, model: str = "", retry_after: int | None = None) -> None:
        super().__init__(text, retry_after=retry_after)
        self.model = model
        """The listed name, for logs and metrics."""


class ServerBusy(ClientError):
    status = 503


class OutOfTime(ClientError):
    """The request's whole time is over."""

    status = 504


STOPPING = "the router is stopping"
"""Message with which the server cancels the tasks of requests when its grace time is over."""


class Stopping(ClientError):
    """The router stops before the request is complete."""

    status = 503

    def __init__(self) -> None:
        super().__init__(f"{STOPPING}; send the request again", retry_after=1)


class TooManyRequests(ClientError):
    status = 429


class AttemptFailed(Exception):
    """`status` and `text` go to the client after the last attempt."""

    def __init__(
        self,
        text: str,
        *,
        status: int = 502,
        retry_after: float | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.param = param
        self.code = code
        self.original = ""
        """The worker's own text, where `text` is Ollama's instead."""
        self.retry_after = retry_after
        """Seconds in the worker's Retry-After header."""


class Lost(AttemptFailed):
    engine_dead = False
    """True if the worker itself said so: its HTTP server is alive, and its beats prove nothing."""
    in_progress = True
    """False if the worker did not get the request, or only takes too long: the request did not crash its engine."""


class Busy(AttemptFailed):
    pass


class Unavailable(AttemptFailed):
    pass


class Faulty(AttemptFailed):
    pass


class Unable(AttemptFailed):
    pass


class ModelGone(AttemptFailed):
    pass


class Refused(AttemptFailed):
    pass


class ContextTooLong(Refused):
    tokens = 0
    """Tokens of the prompt, or a lower bound; 0 if unknown."""
    limit = 0
    """The context in tokens; 0 if unknown."""
    everywhere = False
    """True for a limit of the routing file, which holds on all workers of the model."""

    @property
    def prompt_fits(self) -> bool:
        """True if only the prompt and the longest answer together exceed the context."""
        return 0 < self.tokens < self.limit
