"""An entry of the routing file: the models behind one name or pattern, and the treatment of their requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from vllama_pool.config.routing.model_options import ModelOptions
from vllama_pool.config.routing.schema_types import (
    Duration,
    Fraction,
    Identity,
    Labels,
    Message,
    ModelName,
    Positive,
    Requests,
    Section,
    ServedName,
    Split,
    UpToADay,
    Waiting,
    whole,
)

Reason = Literal["no_worker", "overloaded", "context", "error"]
REASONS: tuple[Reason, ...] = ("no_worker", "overloaded", "context", "error")

POLICY_NAMES = ("least-load", "round-robin", "prefix-affinity", "session")


class Selector(Section):
    """Restricts a model to workers by their tags."""

    require: Labels = Field((), description="Tags that a worker must have, all of them.")
    any: Labels = Field((), description="Tags of which a worker must have at least one.")
    exclude: Labels = Field((), description="Tags that a worker must not have.")
    prefer: Labels = Field(
        (), description="Workers with one of these tags come first. The others serve when those are full or out."
    )


class Target(Section):
    """One of several served models, and its share of the requests."""

    model: ServedName = Field(description="A model as vLLM serves it.")
    weight: Annotated[int, Field(ge=0, le=10_000), BeforeValidator(whole)] = Field(
        1, description="Share of the requests, relative to its neighbours'. 0: only if the others are out."
    )
    workers: Selector | None = Field(None, description="Only these workers, in place of the entry's `workers`.")


class PrefixAffinity(Section):
    """Sends prompts with the same beginning to the same worker, whose prefix cache then holds it.

    Turns of a conversation share their beginning, and so do questions about one document. Workers that are full,
    failing or beyond the bound are passed over.
    """

    type: Literal["prefix-affinity"] = Field(description="The name of the policy.")
    bound: Annotated[float, Field(ge=1, le=100)] = Field(
        1.25, description="Largest load of a worker, relative to the mean of the model's workers."
    )


class Session(Section):
    """Sends the requests of one identity to the same worker.

    While that worker is out, they go to another, and return afterwards. So they do while it is full and has more than
    1.25 times the mean load.
    """

    type: Literal["session"] = Field(description="The name of the policy.")
    by: Identity = Field("conversation", description="user, key, client, conversation or header:NAME.")


class Fallbacks(Section):
    """Models that answer instead, by the reason."""

    no_worker: Annotated[tuple[ServedName, ...], Field(strict=False, max_length=20)] = Field(
        (), description="No worker serves the model now."
    )
    overloaded: Annotated[tuple[ServedName, ...], Field(strict=False, max_length=20)] = Field(
        (), description="Its queue is full, or all of its workers refuse further requests."
    )
    context: Annotated[tuple[ServedName, ...], Field(strict=False, max_length=20)] = Field(
        (), description="The prompt is longer than the context of all its workers."
    )
    error: Annotated[tuple[ServedName, ...], Field(strict=False, max_length=20)] = Field(
        (), description="All attempts failed before the answer began."
    )


class Limits(Section):
    """Limits on an entry's requests. Those on numbers of requests are divided among the router processes."""

    concurrency: Requests | None = Field(None, description="Requests in progress. Further ones wait.")
    queue: Waiting | None = Field(
        None,
        description="Waiting requests. Further ones get Ollama's 503 with a Retry-After. Left out: `OLLAMA_MAX_QUEUE`.",
    )
    wait: UpToADay | None = Field(
        None,
        description="Longest wait for a place or a free worker, one day at most. Then the same 503. Left out: any.",
    )
    output: Positive | None = Field(None, description="Longest answer in tokens. Longer requests are shortened to it.")
    context: Positive | None = Field(None, description="Longest prompt and answer in tokens.")


class Scale(Section):
    """A model that may be without a worker, while something outside of vLLama starts and stops its workers."""

    from_zero: bool = Field(
        description="The model is known and listed without a worker, and its requests wait until one joins."
    )
    wait: UpToADay = Field(
        300.0,
        description="Longest wait for a worker while the model has none, one day at most. Then Ollama's 503 with a "
        "Retry-After.",
    )
    hold: UpToADay = Field(
        300.0,
        description="Time after the model's latest request for which a worker stays wanted (`vllama_model_wanted` in "
        "/metrics), one day at most.",
    )


class Timeouts(Section):
    """Time limits in place of the settings of the same names. All but `total` hold for each attempt."""

    connect: Duration | None = Field(None, description="To a connection with the worker.")
    first_content: Duration | None = Field(None, description="From sending the request to the first content.")
    stall: Duration | None = Field(None, description="Longest pause within an answer.")
    answer: Duration | None = Field(None, description="To an answer that the worker sends as a whole.")
    total: Duration | None = Field(
        None, description="From the request to the end of its response, with the time in queues and all attempts."
    )


class Retries(Section):
    """Retries on other workers before the answer begins."""

    attempts: Annotated[int, Field(ge=1, le=10), BeforeValidator(whole)] = Field(
        3, description="Workers that a request is sent to, at most."
    )
    budget: Fraction = Field(0.2, description="Retries after answers, as a share of the requests in progress.")


class Shadow(Section):
    """Copies some requests to another model. The copies' answers are dropped."""

    model: ServedName = Field(description="A served model, or the name of an entry.")
    share: Fraction = Field(description="Share of the requests.")
    limit: Positive = Field(4, description="Copies in progress.")


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("is empty; write something or leave the key out")
    return value


NotEmpty = AfterValidator(_not_empty)
"""As `min_length`, which also counts invalid items."""


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<name>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<mapping>" if isinstance(value, dict | Section) else None


def _policy_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<name>"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if kind in ("prefix-affinity", "session") else None


TargetOrName = Annotated[
    Annotated[ServedName, Tag("<name>")] | Annotated[Target, Tag("<mapping>")],
    Discriminator(_form, custom_error_type="form", custom_error_message="a served model or {model, weight}"),
]
Serve = Annotated[
    Annotated[ServedName, Tag("<name>")]
    | Annotated[
        tuple[TargetOrName, ...],
        Field(strict=False, max_length=100, json_schema_extra={"minItems": 1}),
        NotEmpty,
        Tag("<list>"),
    ],
    Discriminator(_form, custom_error_type="form", custom_error_message="a served model or a list of them"),
]
PolicyChoice = Annotated[
    Annotated[Literal["least-load", "round-robin", "prefix-affinity", "session"], Tag("<name>")]
    | Annotated[PrefixAffinity, Tag("<prefix-affinity>")]
    | Annotated[Session, Tag("<session>")],
    Discriminator(
        _policy_form,
        custom_error_type="form",
        custom_error_message="a policy's name, or {type: prefix-affinity, ...} or {type: session, ...}",
    ),
]
FallbackChoice = Annotated[
    Annotated[
        tuple[ServedName, ...],
        Field(strict=False, max_length=20, json_schema_extra={"minItems": 1}),
        NotEmpty,
        Tag("<list>"),
    ]
    | Annotated[Fallbacks, Tag("<mapping>")],
    Discriminator(
        _form, custom_error_type="form", custom_error_message="a list of models, or lists by no_worker, error and so on"
    ),
]


class ModelEntry(Section):
    """The models behind one name that clients use, and their options."""

    serve: Serve | None = Field(
        None,
        description="The model as vLLM serves it, or a list of {model, weight}. Left out: the entry's own name. Under "
        "a pattern, {1} is the text that its first '*' matches.",
    )
    split: Split = Field(
        "request",
        description="The trait that keeps its side of several targets: each request is drawn anew, or all requests of "
        "a user, key, client (address), conversation or header:NAME go to one side.",
    )
    aliases: Annotated[tuple[ModelName, ...], Field(strict=False, max_length=1000)] | None = Field(
        None, description="Further names of the same entry."
    )
    options: ModelOptions | None = Field(None, description="Sampling defaults, as PARAMETER in a Modelfile.")
    system: Annotated[str, Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="System text of requests that have none, as SYSTEM in a Modelfile."
    )
    tools: Literal["refuse", "ignore"] = Field(
        "refuse", description="Tools in requests to a model that cannot call them: refuse the request, or drop them."
    )
    policy: PolicyChoice = Field("least-load", description="How a worker is chosen.")
    workers: Selector | None = Field(None, description="Only these workers.")
    fallback: FallbackChoice | None = Field(
        None, description="Models that answer instead, in order, for all reasons or by reason."
    )
    limits: Limits | None = None
    scale: Scale | None = None
    timeouts: Timeouts | None = None
    retries: Retries | None = None
    shadow: Shadow | None = None
    maintenance: Message | None = Field(
        None, description="Set the model aside. Its requests are refused with this text."
    )
    stream_interval: Annotated[int, Field(ge=1, le=1000), BeforeValidator(whole)] = Field(
        1,
        description="Tokens that vLLM sends at once while it streams an answer. More costs less CPU; text arrives in "
        "steps. Without effect on requests with tools and on releases of vLLM before 0.32.",
    )
    completions: Literal["raw", "templated"] = Field(
        "raw",
        description="How /v1/completions treats a prompt: raw sends it as it is, as vLLM and OpenAI do; templated puts "
        "it into the model's chat template, as Ollama does.",
    )

    resume: bool = Field(
        True,
        description="If the worker is lost in the middle of a streamed text, another one with the same model files "
        "continues it. False: the client gets an error.",
    )

    def targets(self, name: str) -> tuple[Target, ...]:
        """Return the served models of the entry `name`, in order."""
        if self.serve is None or isinstance(self.serve, str):
            return (Target(model=self.serve or name),)
        return tuple(Target(model=item) if isinstance(item, str) else item for item in self.serve)

    def fallbacks(self, reason: Reason) -> tuple[str, ...]:
        if self.fallback is None or isinstance(self.fallback, tuple):
            return self.fallback or ()
        names: tuple[str, ...] = getattr(self.fallback, reason)
        return names

    @property
    def policy_name(self) -> str:
        return self.policy if isinstance(self.policy, str) else self.policy.type

    def option_values(self) -> Mapping[str, Any]:
        """Return the sampling defaults that are set, under Ollama's names."""
        return self.options.model_dump(mode="json", exclude_none=True) if self.options else {}
