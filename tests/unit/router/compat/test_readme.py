"""What the README says of the contract's rules."""

from pathlib import Path

from vllama_pool.router.compat.rules import markdown

README = Path(__file__).resolve().parents[4] / "README.md"


def test_the_readmes_table_is_made_from_the_rules() -> None:
    assert markdown() in README.read_text(), (
        "write the output of vllama_pool.router.compat.rules.markdown() into README.md"
    )
