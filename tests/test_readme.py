"""What the README shows in Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs(
    snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    if "index" in names:
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[2] for line in lines] == ["p17", "p42", "p99"]


def test_the_readme_shows_building_searching_and_reranking() -> None:
    shown = "".join(SNIPPETS)
    for call in ("DiPairIndex.build(", ".search(", ".rerank(", "texts=", "Reranker().rank("):
        assert call in shown
