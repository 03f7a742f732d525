from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.poison.apart import trial_workers

IDS = st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=20)


@given(IDS, st.randoms(use_true_random=False))
def test_all_routers_try_requests_on_the_same_workers_and_leave_most_to_streams(ids: set[str], rng: object) -> None:
    chosen = trial_workers("crashed", ids)

    assert chosen == trial_workers("crashed", sorted(ids, reverse=True))
    assert 1 <= len(chosen) <= max(1, len(ids) // 4)
    assert chosen < ids


def test_a_single_other_worker_gets_both() -> None:
    assert trial_workers("a", {"b"}) == frozenset()
    assert trial_workers("a", set()) == frozenset()


def test_crashes_of_different_workers_are_tried_on_different_ones() -> None:
    ids = {f"w{number}" for number in range(10)}

    assert len({trial_workers(f"crashed {number}", ids) for number in range(20)}) > 5


def test_a_worker_that_leaves_moves_only_the_trials_that_it_had() -> None:
    ids = {f"w{number}" for number in range(8)}
    for crashed in map(str, range(50)):
        chosen = trial_workers(crashed, ids)
        left = (ids - chosen).pop()
        assert len(chosen & trial_workers(crashed, ids - {left} | {"new"})) >= 1
