import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dipair_index.cli.make_dataset import make_dataset
from dipair_index.data.dataset import Dataset
from dipair_index.encoders.sentence_embedders import UniversalSentenceEncoder
from dipair_index.errors import DirectoryError, DownloadError, FormatError, SettingsError
from dipair_index.formats.tables import read_table

TOPICS = {
    "tea": ["Green tea is brewed below boiling.", "Black tea wants boiling water."],
    "ice": ["Ice floats because it is lighter than water.", "Salt melts ice on roads."],
    "bread": ["Sourdough rises with wild yeast.", "Rye bread keeps for a week."],
    "moon": ["The moon causes the tides.", "The moon has no air."],
}


@pytest.fixture(scope="module")
def use() -> UniversalSentenceEncoder:
    return UniversalSentenceEncoder()


@pytest.fixture(autouse=True)
def _load_use_once(use: UniversalSentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dipair_index.encoders.sentence_embedders.UniversalSentenceEncoder", lambda: use
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "msmarco"
    folder.mkdir()
    passages = [f"{topic}-{number}\t{text}" for topic, texts in TOPICS.items()
                for number, text in enumerate(texts)]  # fmt: skip
    (folder / "collection.tsv").write_text("\n".join(passages) + "\n")
    for split, number in (("train", 0), ("dev", 1)):
        names = [f"{topic}-{number}" for topic in TOPICS]
        queries = "".join(f"q-{name}\twhat about {name}\n" for name in names)
        (folder / f"queries.{split}.tsv").write_text(queries)
        qrels = "".join(f"q-{name}\t0\t{name}\t1\n" for name in names)
        (folder / f"qrels.{split}.tsv").write_text(qrels)
    return folder


def run(*arguments: str | Path) -> Result:
    """Runs `make-dataset msmarco`; our errors come out as they are."""
    words = ["msmarco", *map(str, arguments)]
    return CliRunner().invoke(make_dataset, words, catch_exceptions=False)


def content(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_folder_becomes_a_dataset_with_its_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("--from-dir", folder, "--out", out, "--max-score-percentile", "100")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split("\t") == [
        "set", "pairs", "positives", "queries", "words/passage", "words/query", "miner AUC",
    ]  # fmt: skip
    assert result.stdout.splitlines()[1].split("\t")[:4] == ["transfer", "32", "", "4"]
    assert result.stdout.splitlines()[2].split("\t")[:4] == ["train", "8", "4", "4"]
    assert f"wrote {out}" in result.stderr
    assert read_table(out / "valid.parquet").column_names == [
        "query_id", "passage_id", "label", "score",
    ]  # fmt: skip
    assert not out.with_name("out.building").exists()


def test_json_prints_what_dataset_json_says(folder: Path, tmp_path: Path) -> None:
    result = run("--from-dir", folder, "--out", tmp_path / "out", "--json")
    assert json.loads(result.stdout) == Dataset.open(tmp_path / "out").record


def test_the_sample_makes_the_same_bytes_twice(tmp_path: Path) -> None:
    assert run("--sample", "--out", tmp_path / "one").exit_code == 0
    assert run("--sample", "--out", tmp_path / "two").exit_code == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    train = Dataset.open(tmp_path / "one").record["table"]["train"]
    assert train["positives"] > 50
    assert train["pairs"] == 2 * train["positives"]


def test_overwriting_takes_the_index_over(folder: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    run("--from-dir", folder, "--out", out)
    before = content(out)

    def unexpected(*arguments: object) -> None:
        raise AssertionError("embedded or built again")

    monkeypatch.setattr("dipair_index.stores.ann.FaissIndex.build", unexpected)
    monkeypatch.setattr("dipair_index.stores.ann.FaissIndex.load", unexpected)
    monkeypatch.setattr(UniversalSentenceEncoder, "embed_queries", unexpected)
    run("--from-dir", folder, "--out", out, "--overwrite", "--max-score-percentile", "50")
    after = content(out)
    assert set(after) == set(before)
    assert all(after[name] == before[name] for name in before if name.startswith("ann/"))
    assert after["dataset.json"] != before["dataset.json"]


def test_the_index_of_another_dataset_is_taken_over(folder: Path, tmp_path: Path) -> None:
    run("--from-dir", folder, "--out", tmp_path / "one", "--ann", "hnsw")
    run("--from-dir", folder, "--out", tmp_path / "two", "--ann-from", tmp_path / "one")
    assert Dataset.open(tmp_path / "two").record["ann"] == "hnsw"
    first, second = (read_table(tmp_path / name / "train.parquet") for name in ("one", "two"))
    assert first["passage_id"].to_pylist() == second["passage_id"].to_pylist()
    assert first["score"].to_pylist() == pytest.approx(second["score"].to_pylist(), abs=1e-5)


def test_an_index_that_does_not_agree_is_refused_with_the_reason(folder, tmp_path) -> None:
    run("--from-dir", folder, "--out", tmp_path / "one")
    with open(folder / "collection.tsv", "a") as target:
        target.write("new\tA new passage.\n")
    with pytest.raises(DirectoryError, match=r"it holds 8 other passages\): leav"):
        run("--from-dir", folder, "--out", tmp_path / "two", "--ann-from", tmp_path / "one")
    with pytest.raises(DirectoryError, match=r"there is no ANN index in .*msmarco"):
        run("--from-dir", folder, "--out", tmp_path / "two", "--ann-from", folder)
    assert not (tmp_path / "two").exists()


def test_an_existing_directory_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("mine")
    with pytest.raises(DirectoryError, match=r"out exists: pass --overwrite to replace it"):
        run("--from-dir", tmp_path / "nowhere", "--out", out)
    with pytest.raises(DirectoryError, match=r"out is not a dataset"):
        run("--from-dir", folder, "--out", out, "--overwrite")
    assert content(out) == {"letter.txt": b"mine"}


def test_bad_files_and_settings_leave_nothing_at_the_target(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FormatError, match=r"there is no folder .*nowhere"):
        run("--from-dir", tmp_path / "nowhere", "--out", out)
    with pytest.raises(SettingsError, match=r"--max-score or --max-score-percentile, not both"):
        run("--sample", "--out", out, "--max-score", "1", "--max-score-percentile", "1")
    (folder / "qrels.dev.tsv").write_text("q-tea-1\t0\tcoffee\t1\n")
    with pytest.raises(FormatError, match=r"line 1 of .*qrels.dev.tsv: passages that .*: coffee:"):
        run("--from-dir", folder, "--out", out)
    assert not out.exists()
    result = run("--sample", "--from-dir", folder, "--out", out)
    assert result.exit_code == 2
    assert "give --from-dir or --sample, not both" in result.stderr


def test_without_network_the_download_names_the_other_ways(tmp_path, monkeypatch) -> None:
    def no_network(*arguments: object, **settings: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(DownloadError, match=r"Network is unreachable.*--from-dir DIR .* --sample"):
        run("--out", tmp_path / "out", "--download-dir", tmp_path / "downloads")
    assert not (tmp_path / "out").exists()


def test_too_few_negatives_are_said(folder: Path, tmp_path: Path) -> None:
    result = run("--from-dir", folder, "--out", tmp_path / "out", "--max-score", "-1")
    assert "train: 4 negatives fewer than positives" in result.stderr


def test_a_beir_folder_becomes_a_dataset(tmp_path: Path) -> None:
    folder, out = tmp_path / "beir", tmp_path / "out"
    (folder / "qrels").mkdir(parents=True)
    passages = {
        f"{topic}-{n}": text for topic, texts in TOPICS.items() for n, text in enumerate(texts)
    }
    lines = [json.dumps({"_id": key, "title": "T", "text": text}) for key, text in passages.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"_id": f"q-{name}", "text": f"what about {name}"}) for name in passages]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    for split, names in (("train", list(passages)[:4]), ("dev", list(passages)[4:6]),
                         ("test", list(passages)[6:7])):  # fmt: skip
        rows = ["query-id\tcorpus-id\tscore", *(f"q-{name}\t{name}\t1" for name in names)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows))
    arguments = ["beir", str(folder), "--out", str(out), "--max-score-percentile", "100"]
    result = CliRunner().invoke(make_dataset, arguments, catch_exceptions=False)
    assert [line.split("\t")[:4] for line in result.stdout.splitlines()[1:]] == [
        ["transfer", "32", "", "4"], ["train", "8", "4", "4"], ["valid", "4", "2", "2"],
        ["test", "2", "1", "1"],
    ]  # fmt: skip
    assert Dataset.open(out).record["dataset"] == "beir"
    first = read_table(out / "passages.parquet").to_pylist()[0]
    assert first == {"passage_id": "tea-0", "text": "T Green tea is brewed below boiling."}
