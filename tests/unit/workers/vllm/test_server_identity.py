"""One server that restarts, and several servers behind one address, as sequences of observations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count, pairwise

import pytest

from vllama_pool.workers.vllm.server_identity import (
    CONFIRM,
    MEMORY,
    SETTLED,
    TURNOVER,
    Observation,
    ServerIdentity,
    Sighting,
)

Choose = Callable[[int], Iterator[int]]


class Server:
    """A vLLM that generates `rate` tokens between two observations of the address."""

    _starts = count(1)

    def __init__(self, tokens: int = 0, rate: int = 7, *, tells: bool = True) -> None:
        self.tells = tells
        self.rate = rate
        self.restart(tokens)

    def restart(self, tokens: int = 0) -> None:
        self.started = float(next(self._starts)) if self.tells else None
        self.tokens = tokens

    def seen(self) -> Observation:
        return Observation(self.started, self.tokens)


def alternating(servers: int) -> Iterator[int]:
    return (index % servers for index in count())


def at_random(servers: int) -> Iterator[int]:
    rng = random.Random(7)
    return (rng.randrange(servers) for _ in count())


def in_blocks(servers: int) -> Iterator[int]:
    """A balancer per connection, whose connections last ten observations."""
    return (index // 10 % servers for index in count())


def watch(identity: ServerIdentity, servers: list[Server], times: int, choose: Choose = alternating) -> list[Sighting]:
    """Observe the address `times` times."""
    sightings = []
    chosen = choose(len(servers))
    for _ in range(times):
        sightings.append(identity.observe(servers[next(chosen)].seen()))
        for server in servers:
            server.tokens += server.rate
    return sightings


@pytest.mark.parametrize("tells", [True, False])
def test_one_server_stays_the_same(tells: bool) -> None:
    identity = ServerIdentity()
    assert set(watch(identity, [Server(tells=tells)], 3000)) == {Sighting.SAME}
    assert identity.certain


@pytest.mark.parametrize("tells", [True, False])
def test_a_restart_between_two_observations_is_noticed_once(tells: bool) -> None:
    identity, server = ServerIdentity(), Server(5000, tells=tells)
    watch(identity, [server], 50)
    server.restart()
    sightings = watch(identity, [server], 200)
    assert sightings[0] is Sighting.CHANGED
    assert sightings.index(Sighting.RESTARTED) == CONFIRM
    assert sightings.count(Sighting.RESTARTED) == 1
    assert not identity.several


@pytest.mark.parametrize("tells", [True, False])
def test_a_restart_with_an_interruption_is_noticed_at_once(tells: bool) -> None:
    identity, server = ServerIdentity(), Server(5000, tells=tells)
    watch(identity, [server], 50)
    identity.interrupt()
    server.restart()
    assert watch(identity, [server], 20) == [Sighting.RESTARTED] + [Sighting.SAME] * 19


@pytest.mark.parametrize("tells", [True, False])
def test_a_server_that_was_only_cut_off_was_not_restarted(tells: bool) -> None:
    identity, server = ServerIdentity(), Server(5000, tells=tells)
    watch(identity, [server], 50)
    identity.interrupt()
    server.tokens += 100_000
    assert set(watch(identity, [server], 20)) == {Sighting.SAME}


def test_a_restart_followed_by_an_interruption_is_not_forgotten() -> None:
    identity, server = ServerIdentity(), Server(5000)
    watch(identity, [server], 50)
    server.restart()
    assert watch(identity, [server], 2) == [Sighting.CHANGED, Sighting.SAME]
    identity.interrupt()
    assert watch(identity, [server], 1) == [Sighting.RESTARTED]


def test_a_server_that_restarts_every_few_minutes_is_one_server() -> None:
    identity, server = ServerIdentity(), Server(tells=False)
    for _ in range(10):
        watch(identity, [server], MEMORY + 1)
        server.restart()
    assert not identity.several


@pytest.mark.parametrize("choose", [alternating, at_random, in_blocks])
@pytest.mark.parametrize("servers", [2, 3, 40])
@pytest.mark.parametrize("tells", [True, False])
def test_several_servers_are_recognized_and_stay_so(choose: Choose, servers: int, tells: bool) -> None:
    identity = ServerIdentity()
    behind = [Server(1000 * (index * 7 % 11), tells=tells) for index in range(servers)]
    sightings = watch(identity, behind, 2000, choose)
    assert identity.several
    assert sightings.index(Sighting.SEVERAL) <= (3 * 10 * servers if choose is in_blocks else 60)
    assert sightings.count(Sighting.RESTARTED) <= (2 if choose is in_blocks or servers == 40 else 1)
    assert set(sightings[500:]) == {Sighting.SEVERAL}
    assert not identity.certain


def test_two_alternating_servers_are_recognized_without_a_restart() -> None:
    sightings = watch(ServerIdentity(), [Server(5000), Server(10)], 100)
    assert sightings[:3] == [Sighting.SAME, Sighting.CHANGED, Sighting.SEVERAL]
    assert Sighting.RESTARTED not in sightings


def test_a_server_without_a_start_time_beside_one_with_it_is_another_one() -> None:
    identity = ServerIdentity()
    watch(identity, [Server(10), Server(10, tells=False)], 10)
    assert identity.several


def test_a_rolling_restart_behind_a_balancer_is_noticed_once_it_is_over() -> None:
    identity, behind = ServerIdentity(), [Server(5000), Server(70), Server(900)]
    watch(identity, behind, 200)
    sightings = []
    for server in behind:
        server.restart()
        sightings += watch(identity, behind, 30)
    assert set(sightings) == {Sighting.SEVERAL}
    sightings = watch(identity, behind, 2 * TURNOVER)
    assert sightings.count(Sighting.RESTARTED) == 1
    assert identity.several


def test_one_restart_behind_a_balancer_changes_nothing() -> None:
    identity, behind = ServerIdentity(), [Server(5000), Server(70)]
    watch(identity, behind, 200)
    behind[0].restart()
    assert set(watch(identity, behind, 300)) == {Sighting.SEVERAL}


def test_several_servers_survive_an_interruption_of_their_balancer() -> None:
    identity, behind = ServerIdentity(), [Server(5000), Server(70)]
    watch(identity, behind, 20)
    identity.interrupt()
    assert set(watch(identity, behind, 20)) == {Sighting.SEVERAL}
    identity.interrupt()
    for server in behind:
        server.restart()
    assert watch(identity, behind, 20)[0] is Sighting.RESTARTED


def test_an_address_whose_balancer_was_removed_is_one_server_again() -> None:
    identity, behind = ServerIdentity(), [Server(5000), Server(70)]
    watch(identity, behind, 20)
    watch(identity, behind[:1], SETTLED + 2)
    assert not identity.several
    assert identity.certain


def test_models_that_alternate_show_several_servers() -> None:
    identity = ServerIdentity()
    watch(identity, [Server(tells=False)], 3)
    identity.mark_several()
    assert set(watch(identity, [Server(tells=False)], 3)) == {Sighting.SEVERAL}


def test_the_speed_of_several_servers_is_never_certain() -> None:
    identity, behind = ServerIdentity(), [Server(5000), Server(70)]
    certain = []
    for index in range(50):
        identity.observe(behind[index % 2].seen())
        certain.append(identity.certain)
    assert not any(certain)


def test_the_counters_of_one_server_are_certain_from_the_second_observation() -> None:
    identity, server = ServerIdentity(), Server()
    certain = [watch(identity, [server], 1) and identity.certain for _ in range(5)]
    assert certain == [False, True, True, True, True]
    assert all(later >= earlier for earlier, later in pairwise(certain))
