from vllama_pool.router.poison.byte_budget import ByteBudget


def test_no_more_bytes_are_taken_than_the_limit_leaves() -> None:
    budget = ByteBudget(10)
    assert budget.take(6)
    assert not budget.take(5)
    assert budget.take(4)
    budget.give_back(6)
    assert budget.take(6)
