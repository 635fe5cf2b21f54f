"""`rerank --index-dir` several times."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_rerank_searches_several_indexes_as_one(
    run: Callable[..., Result], built_index: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    corpus = (built_index.parent / "corpus.tsv").read_text().splitlines(keepends=True)
    shards = []
    for name, lines in (("a", corpus[:2]), ("b", corpus[2:])):
        (tmp_path / f"{name}.tsv").write_text("".join(lines))
        shards += ["--index-dir", tmp_path / name]
        built = run("build", "--corpus", tmp_path / f"{name}.tsv", *shards[-2:],
                    "--model", tiny_model_dir)  # fmt: skip
        assert built.exit_code == 0, built.output
    asked = ("rerank", "--query", "the moon and bees", "--json")
    answers = []
    for chosen in (shards, ["--index-dir", built_index]):
        result = run(*asked, *chosen)
        assert result.exit_code == 0, result.output
        answers.append(json.loads(result.stdout)["results"])
    for several, one in zip(*answers, strict=True):
        assert several.pop("score") == pytest.approx(one.pop("score"), abs=1e-5)
        assert several.pop("retrieval_score") == pytest.approx(one.pop("retrieval_score"), abs=1e-5)
        assert several == one
