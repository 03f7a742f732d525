"""The text of `vllama explain MODEL`."""

from __future__ import annotations

from typing import Any

import pytest

from vllama_pool.router.balance.examine import CandidateView
from vllama_pool.router.cli.explanation_text import explanation_text
from vllama_pool.router.routing.explain import Explanation, FallbackView, RuleView, TargetView


def candidate(worker: str, **changes: Any) -> CandidateView:
    fields: dict[str, Any] = {
        "worker": worker,
        "model": "org/big",
        "group": 0,
        "left_out": "",
        "score": 0.5,
        "in_flight": 3,
        "others": 0,
        "slots": 8,
        "full": False,
        "speed": 1.0,
        "weight": 1.0,
        "penalty": 1.0,
        "state": "ready",
        "health": "closed",
        "denied": 0.0,
        "set_aside": "",
        "tags": (),
        "preferred": 0,
        "window": 0,
        "place": 0,
        "limit": 0.0,
        "remembered": 0,
        "passed_over": False,
    }
    return CandidateView(**{**fields, **changes})


RULE = RuleView(
    "assistant",
    "alias",
    "helper",
    place="routing.yaml:12",
    policy="prefix-affinity",
    settings={
        "policy": {"type": "prefix-affinity", "bound": 1.5},
        "options": {"temperature": 0.5, "stop": ["a", "b"]},
        "limits": {"concurrency": 10, "wait": 20.0},
    },
)
TARGETS = (
    TargetView("org/big", 19, 0.95, 4, first=True),
    TargetView("org/small", 1, 0.05, 0, {"require": ["a100"]}),
)
ROUTED = Explanation(
    requested="helper",
    outcome="routed",
    revision="0123456789ab",
    rule=RULE,
    split="user",
    identity="00000000000000ab",
    targets=TARGETS,
    chosen="gpu-2",
    chosen_model="org/big",
    candidates=(
        candidate("gpu-12", score=11.25, in_flight=8, others=2, full=True, speed=0.8, passed_over=True, limit=6.0),
        candidate("gpu-2", weight=0.25, window=32768),
        candidate("gpu-3", left_out="draining"),
    ),
    fallbacks=(
        FallbackView("no_worker", ("backup", "last"), ("last",)),
        FallbackView("error", ("backup",)),
    ),
)


def test_a_routed_request() -> None:
    assert (
        explanation_text(ROUTED)
        == """\
helper goes to org/big on gpu-2
  rule      'assistant' at routing.yaml:12, by its alias 'helper'
  policy    prefix-affinity bound 1.5
  split     by user; this one's hash 00000000000000ab keeps its side
  options   temperature 0.5, stop a b
  limits    concurrency 10, wait 20
  revision  0123456789ab
targets
  *  org/big    weight 19  95.0%  4 workers
     org/small   weight 1   5.0%  0 workers  require a100
candidates
     gpu-12  org/big  score 11.25  load 10/8 full  8 of this router, speed 0.80, load limit 6, passed over
  *  gpu-2   org/big  score 0.50   load 3/8        slow start 0.25, context 32768
     gpu-3   org/big  left out                     draining
fallbacks
  no_worker  backup, then last; last would answer now
  error      backup; none has a worker now"""
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"penalty": 2.0}, "penalty 2.00 for recent errors"),
        ({"health": "open"}, "breaker open"),
        ({"health": "suspect", "state": "down"}, "suspect, down"),
        ({"place": 1, "limit": 6.0, "remembered": 3}, "place 1, load limit 6, 3 known prefixes"),
        ({"preferred": 1, "tags": ("a100", "zone-a")}, "preferred, tags a100 zone-a"),
        ({"others": 2, "speed": 0.5}, "3 of this router, speed 0.50"),
    ],
)
def test_terms_that_differ_from_a_plain_workers(changes: dict[str, Any], text: str) -> None:
    explanation = Explanation(
        requested="x", outcome="routed", chosen="a", chosen_model="org/big", candidates=(candidate("a", **changes),)
    )
    assert explanation_text(explanation).splitlines()[-1].endswith(f"  {text}")


def test_a_routing_file_alone_shows_no_workers() -> None:
    alone = Explanation(
        requested="helper", outcome="routed", rule=RULE, split="request", targets=TARGETS, fallbacks=ROUTED.fallbacks
    )
    assert (
        explanation_text(alone, live=False)
        == """\
helper goes to org/big (95.0%) or org/small (5.0%)
  rule     'assistant' at routing.yaml:12, by its alias 'helper'
  policy   prefix-affinity bound 1.5
  split    each request is drawn anew
  options  temperature 0.5, stop a b
  limits   concurrency 10, wait 20
targets
  *  org/big    weight 19  95.0%
     org/small   weight 1   5.0%  require a100
fallbacks
  no_worker  backup, then last
  error      backup"""
    )


def test_a_pattern_and_a_stand_in() -> None:
    explanation = Explanation(
        requested="llama3-8b",
        outcome="routed",
        rule=RuleView("llama*-*", "pattern", "llama*-*", ("3", "8b"), policy="least-load"),
        stand_in="backup",
        targets=(TargetView("org/b", 1, 1.0, 1, first=True),),
        chosen="a",
        chosen_model="org/b",
        candidates=(candidate("a", model="org/b", slots=0),),
    )
    assert (
        explanation_text(explanation)
        == """\
llama3-8b goes to org/b on a
  rule      'llama*-*', by the pattern with {1} = '3', {2} = '8b'
  policy    least-load
  stand-in  backup, because no worker serves the model itself
targets
  *  org/b  weight 1  100.0%  1 worker
candidates
  *  a  org/b  score 0.50  load 3/?"""
    )


def test_an_unknown_name_shows_those_that_resemble_it() -> None:
    explanation = Explanation(
        requested="helpr\x1b", outcome="unknown", error="the router knows no such model", near=("helper", "help\x1b")
    )
    assert explanation_text(explanation) == "helpr\\x1b: the router knows no such model\n  near  helper, help\\x1b"


def test_a_refused_request_shows_the_clients_error_and_its_fallbacks() -> None:
    explanation = Explanation(
        requested="m",
        outcome="refused",
        error="no worker is available",
        rule=RuleView("m", "name", policy="least-load"),
        targets=(TargetView("x", 1, 0.0, 0),),
        fallbacks=(FallbackView("no_worker", ("backup",)),),
    )
    assert (
        explanation_text(explanation)
        == """\
m is refused: no worker is available
  rule    'm', by its name
  policy  least-load
targets
     x  weight 1  0.0%  0 workers
fallbacks
  no_worker  backup; none has a worker now"""
    )


def test_a_request_that_waits_for_a_worker_shows_why_and_how_many_wait() -> None:
    explanation = Explanation(
        requested="m",
        outcome="waits",
        error="no worker is available",
        rule=RuleView("m", "name", policy="least-load"),
        waiting=2,
    )
    assert (
        explanation_text(explanation)
        == """\
m waits for a worker to join: no worker is available
  rule     'm', by its name
  policy   least-load
  waiting  2 requests"""
    )


def test_served_and_virtual_models() -> None:
    rule = RuleView("org/x", "served", virtual="mine", policy="least-load")
    explanation = Explanation(requested="mine", outcome="routed", rule=rule, chosen="a", chosen_model="org/x")
    assert (
        explanation_text(explanation)
        == """\
mine goes to org/x on a
  rule     none: workers serve 'org/x' under this name
  virtual  mine is a virtual model; its base decides
  policy   least-load"""
    )
