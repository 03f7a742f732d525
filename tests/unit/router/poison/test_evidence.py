from vllama_pool.router.poison.evidence import CrashId, Culprit, Evidence, culprits

A, B, C = (CrashId(name, 1, 1) for name in "abc")


def test_the_only_request_that_two_crashes_have_in_common_is_the_culprit() -> None:
    assert culprits({A: {"poison", "x"}, B: {"poison", "y"}}) == [Culprit("poison", (A, B))]


def test_two_requests_in_common_accuse_neither() -> None:
    assert culprits({A: {"poison", "x"}, B: {"poison", "x"}}) == []


def test_one_crash_accuses_nobody() -> None:
    assert culprits({A: {"poison"}, B: set()}) == []


def test_a_third_crash_can_decide_between_two_suspects() -> None:
    found = culprits({A: {"poison", "x"}, B: {"poison", "x"}, C: {"poison", "y"}})

    assert [one.digest for one in found] == ["poison"]


def test_two_crashes_of_one_worker_count_as_two() -> None:
    again = CrashId("a", 1, 2)

    assert [one.digest for one in culprits({A: {"poison"}, again: {"poison"}})] == ["poison"]


def test_a_request_that_another_engine_answered_is_no_suspect_of_earlier_crashes() -> None:
    evidence = Evidence(keep=600)
    evidence.add(A, "SIGSEGV", ("poison", "common"), 0)
    evidence.answered("common")
    evidence.add(B, "SIGSEGV", ("poison", "common"), 1)

    (culprit,) = evidence.culprits(2)

    assert culprit.digest == "poison"
    assert evidence.describe(culprit, 2) == "a (SIGSEGV, 2 s ago) and b (SIGSEGV, 1 s ago)"


def test_crashes_are_forgotten() -> None:
    evidence = Evidence(keep=600)
    evidence.add(A, "SIGSEGV", ("poison",), 0)
    evidence.add(B, "SIGSEGV", ("poison",), 599)

    assert evidence.culprits(599) != []
    assert evidence.culprits(600) == []
