from pathlib import Path

from vllama_pool.router.compat.rules import markdown

PAGE = Path(__file__).resolve().parents[4] / "docs" / "ollama-compatibility.md"


def test_the_table_in_the_docs_matches_the_rules() -> None:
    assert markdown() in PAGE.read_text(), (
        "write the output of vllama_pool.router.compat.rules.markdown() into docs/ollama-compatibility.md"
    )
