"""Compare streams of a real vLLM on the CPU through the router with the same streams directly on vLLM.

    make bench-real ARGS="--rounds 20"

Eight chats run at once, at temperature 0 and with a fixed number of tokens, first directly and then through the router,
in the next pair the other way round. Both begin at the same random moments. Shorter answers and chats that are alone
follow, for more first tokens. vLLM has one thread and core 1 for itself; the router, its registry, its agent and the
client run on core 0.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.apis import Api
from tests.bench.pairs import Pair, Side, comparison
from tests.bench.processes import RIG_CORE, ROUTER_CORE, descendants, put_ahead
from tests.bench.programs import WORK, CannotMeasure
from tests.bench.rig import ROOT
from tests.bench.running import Watch
from tests.bench.streams import Request, Round, run
from tests.support.fleet.attached import system
from tests.support.vllm.servers import Spec, spawn, start

VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
MODEL = ROOT / ".models" / "smollm2-135m-instruct"
NAME = "smollm2:135m"
FLAGS = ("--max-model-len", "1024", "--max-num-seqs", "32", "--no-enable-prefix-caching")
"""Each round computes its prompts anew."""
TOPICS = ("the sea", "a mountain", "an old city", "a railway", "the winter", "a garden", "a lighthouse", "the desert")
WARM_UP = 2
"""Pairs that do not count."""
EXTRA_ROUNDS = 2
"""Times the wanted pairs that may be tried while pairs are dropped."""
SHORT_ROUNDS = 5
SHORT_TOKENS = 8
"""Of further rounds in each pair, because a single round has few first tokens."""
ALONE = 2
"""Times two streams that are alone, after each round."""
LIMIT = 120.0
"""Seconds of one round."""
SAMPLING = {"temperature": 0.0, "top_k": 40, "top_p": 0.9}


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "make bench-real", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="of each kind (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=8, help="at once (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (default: %(default)s)")
    parser.add_argument(
        "--spread", type=float, default=0.5, help="seconds in which the streams begin (default: %(default)s)"
    )
    parser.add_argument("--model", type=Path, default=MODEL, help=f"folder (default: .models/{MODEL.name})")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="leave all programs on all cores")
    parser.add_argument(
        "--most-other", type=float, default=0.3, help="cores of other programs above which a pair is dropped"
    )
    return parser.parse_args(arguments)


def requests(port: int, *, routed: bool, tokens: int, times: Sequence[float]) -> list[Request]:
    """Return chats about different topics, one for each time. Both kinds ask vLLM for the same tokens."""
    made = []
    for index, after in enumerate(times):
        prompt = f"Write a very long story about {TOPICS[index % len(TOPICS)]}, part {index + 1} of many."
        messages = [{"role": "user", "content": prompt}]
        api = _ollama(messages, tokens) if routed else _openai(messages, tokens)
        made.append(Request(port, api.path, api.request(stream=True), after))
    return made


def _ollama(messages: list[dict[str, str]], tokens: int) -> Api:
    sampling = {**SAMPLING, "num_predict": tokens}
    return Api("/api/chat", {"model": NAME, "messages": messages, "options": sampling}, {})


def _openai(messages: list[dict[str, str]], tokens: int) -> Api:
    body = {"model": NAME, "messages": messages, **SAMPLING, "max_tokens": tokens}
    return Api("/v1/chat/completions", body, {"stream_options": {"include_usage": True}})


@dataclass(frozen=True, slots=True)
class Way:
    """Requests directly to vLLM, or through the router."""

    port: int
    routed: bool

    def run(self, tokens: int, times: Sequence[float]) -> Round:
        """Raises CannotMeasure if an answer has not the expected number of tokens."""
        result = run(requests(self.port, routed=self.routed, tokens=tokens, times=times), LIMIT)
        expected = tokens * len(times)
        if result.tokens != expected:
            raise CannotMeasure(f"{result.tokens} of {expected} tokens came; choose fewer --tokens, or another --model")
        return result


def measure_pair(ways: Sequence[Way], tokens: int, times: Sequence[Sequence[float]]) -> Pair:
    """Measure both ways in turn: a long round, then short ones for more first tokens, and streams that are alone."""
    watch = Watch(descendants(os.getpid()))
    rounds: dict[bool, list[Round]] = {True: [], False: []}
    alone: dict[bool, list[float]] = {True: [], False: []}
    for number, begins in enumerate(times):
        for way in ways if number % 2 == 0 else ways[::-1]:
            rounds[way.routed].append(way.run(tokens if number == 0 else SHORT_TOKENS, begins))
        for way in (*ways, *ways[::-1]) * ALONE:
            alone[way.routed].append(way.run(1, [0.0]).mean_first)
    direct, routed = (side(rounds[kind], alone[kind]) for kind in (False, True))
    return Pair(direct, routed, watch.other())


def side(rounds: Sequence[Round], alone: Sequence[float]) -> Side:
    """Return the throughput of the first round, and the first tokens of all."""
    return Side(rounds[0].rate, statistics.mean(each.mean_first for each in rounds), statistics.median(alone))


def measure(choice: argparse.Namespace, ways: Sequence[Way]) -> list[Pair]:
    rng = random.Random(1)
    pairs: list[Pair] = []
    for number in range(-WARM_UP, choice.rounds * EXTRA_ROUNDS):
        times = [[rng.uniform(0, choice.spread) for _ in range(choice.streams)] for _ in range(1 + SHORT_ROUNDS)]
        pair = measure_pair(ways if number % 2 == 0 else ways[::-1], choice.tokens, times)
        if number < 0:
            continue
        pairs.append(pair)
        say(line(pair))
        if sum(pair.other <= choice.most_other for pair in pairs) >= choice.rounds:
            break
    return pairs


def line(pair: Pair) -> str:
    return f"direct {_words(pair.direct)}; routed {_words(pair.routed)}; other={pair.other:.2f}"


def _words(one: Side) -> str:
    return f"{one.rate:.1f} tokens/s, first {one.first * 1000:.1f} ms, alone {one.alone * 1000:.2f} ms"


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def compare(choice: argparse.Namespace) -> list[Pair]:
    """Start vLLM and a router over it, and measure."""
    for needed in (VLLM, choice.model):
        if not needed.exists():
            raise CannotMeasure(f"{needed} is missing; run `make test` once, which sets it up")
    command = ["taskset", "-c", str(RIG_CORE), str(VLLM)] if choice.pin else [str(VLLM)]
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK, prefix="real-") as folder:
        if choice.pin:
            os.sched_setaffinity(0, {ROUTER_CORE})
        server = start(spawn(command), Spec(NAME, choice.model.resolve(), FLAGS), Path(folder))
        try:
            with system(Path(folder), server) as url:
                put_ahead([os.getpid(), *descendants(os.getpid())])
                return measure(choice, [Way(server.port, False), Way(int(url.rpartition(":")[2]), True)])
        finally:
            server.stop()


def main(arguments: Sequence[str]) -> int:
    choice = options(arguments)
    try:
        pairs = compare(choice)
    except (CannotMeasure, AssertionError) as error:
        sys.stderr.write(f"bench-real: {error}\n")
        return 1
    say("", *comparison(pairs, choice.most_other))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
