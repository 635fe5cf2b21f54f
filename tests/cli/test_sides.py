"""`build --side`: an index of the queries, for `match`."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result


def test_an_index_of_queries_is_described_and_not_ranked(
    run: Callable[..., Result], tiny_model_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "queries.index"
    built = run("build", "--corpus", corpus, "--side", "query", "--index-dir", folder,
                "--model", tiny_model_dir)  # fmt: skip
    assert built.exit_code == 0, built.output
    assert "score pairs of it with `match`" in built.stderr
    assert "\nside\tquery\n" in run("info", "--index-dir", folder).stdout
    for command in (["rerank", "--query", "bees"], ["bench", "--queries", corpus]):
        refused = run(*command, "--index-dir", folder)
        assert refused.exit_code == 1
        assert refused.stderr.endswith(
            f"{folder} holds texts of the side query, and only passages are ranked: give an index "
            "that was built without --side, or score pairs with `dipair-index match`\n"
        )
