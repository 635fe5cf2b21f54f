"""What the README and the pages of docs/ show in Python runs, and prints what stands below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dipair_index.errors import MissingPackageError

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
ELSEWHERE = {"given-tokens"}
"""What needs a trained model, and is run in tests/cli/test_given_sides.py."""
SLOW = {"toolkits"}
"""What imports five toolkits, of which each takes seconds."""
PAGES = {
    page.stem: BLOCK.findall(page.read_text(encoding="utf-8"))
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


def words_of(output: str) -> list[str | float]:
    """The words and the numbers of what was printed."""
    words = re.split(r"[\s,{}]+", output.strip())
    return [float(word) if re.fullmatch(r"-?\d+\.\d+(e-\d+)?", word) else word for word in words]


def near(words: list[str | float]) -> list[object]:
    """The same, with numbers that stand for those near them: scores differ by the processor."""
    return [pytest.approx(each, abs=2e-3) if isinstance(each, float) else each for each in words]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page, blocks in PAGES.items()
        if blocks and page not in ELSEWHERE
    ],
)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    names: dict[str, object] = {"__name__": page}
    for code, shown in PAGES[page]:
        try:
            exec(compile(code, f"{page}.md", "exec"), names)
        except MissingPackageError as error:
            pytest.skip(str(error))
        printed = capsys.readouterr().out
        if shown:
            assert words_of(printed) == near(words_of(shown))
        elif "index.search(" in code and page == "README":
            assert re.findall("p[0-9]+", printed) == ["p17", "p42", "p99"]


def test_the_readme_shows_building_searching_and_reranking() -> None:
    shown = "".join(code for code, _ in PAGES["README"])
    for call in ("DiPairIndex.build(", ".search(", ".rerank(", "texts=", "Reranker().rank("):
        assert call in shown
