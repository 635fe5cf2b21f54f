"""A BEIR folder gives the same kinds of splits as MS MARCO's files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dipair_index.data.splits import SplitQueries, split_queries
from dipair_index.errors import FormatError
from dipair_index.formats.beir import BeirFiles


def beir(folder: Path, **qrels: str) -> Path:
    """Passages p0 to p5 and queries q0 to q9; `qrels` hold "query passage relevance" by split."""
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"p{n}", "title": "", "text": f"passage {n}"}) for n in range(6)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"_id": f"q{n}", "text": f"query {n}"}) for n in range(10)]
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for split, judged in qrels.items():
        rows = [
            "query-id\tcorpus-id\tscore",
            *("\t".join(row.split()) for row in judged.split(",")),
        ]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def splits(folder: Path) -> tuple[BeirFiles, SplitQueries]:
    files = BeirFiles.find(folder)
    queries = files.read_queries()
    passages = [passage.passage_id for passage in files.iter_passages()]
    return files, split_queries(queries, files.read_qrels(queries, passages), [], 0)


TRAIN = "q0 p0 1,q1 p1 2,q2 p2 1,q2 p3 0"


def test_dev_is_valid_and_test_is_test_and_unjudged_queries_are_left_out(tmp_path: Path) -> None:
    _, found = splits(beir(tmp_path / "b", train=TRAIN, dev="q3 p0 1", test="q4 p0 1,q5 p1 0"))
    # q5 has no positive, and q6 to q9 are judged nowhere
    assert dict(zip(found.ids, found.splits, strict=True)) == {
        "q0": "train", "q1": "train", "q2": "train", "q3": "valid", "q4": "test",
    }  # fmt: skip
    assert found.dev_without_positive == 1


@pytest.mark.parametrize(
    ("qrels", "counts"),
    [
        ({"test": "q4 p0 1,q5 p1 1"}, (2, 1, 2)),  # valid comes off train
        ({"dev": "q4 p0 1,q5 p1 1,q6 p1 1"}, (3, 2, 1)),  # dev by halves
        ({}, (1, 1, 1)),  # both come off train
    ],
)
def test_what_is_missing_comes_off_dev_or_train(
    tmp_path: Path, qrels: dict[str, str], counts: tuple[int, int, int]
) -> None:
    _, found = splits(beir(tmp_path / "b", train=TRAIN, **qrels))
    assert tuple(map(found.splits.count, ("train", "valid", "test"))) == counts


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="lacks qrels/train.tsv: expected a BEIR folder that can"):
        BeirFiles.find(beir(tmp_path / "b", test=TRAIN))
    (tmp_path / "b" / "corpus.jsonl").unlink()
    with pytest.raises(FormatError, match="lacks corpus.jsonl, qrels/train.tsv"):
        BeirFiles.find(tmp_path / "b")
    with pytest.raises(FormatError, match="there is no folder .*nowhere"):
        BeirFiles.find(tmp_path / "nowhere")
    with pytest.raises(FormatError, match=r"line 2 of .*test.tsv: query q0 is judged in .*train"):
        splits(beir(tmp_path / "c", train=TRAIN, test="q0 p3 1"))
    with pytest.raises(FormatError, match=r"line 2 of .*train.tsv: passages that .* hold: p9"):
        splits(beir(tmp_path / "d", train="q0 p9 1"))
    with pytest.raises(FormatError, match=r"line 2 of .*train.tsv: query q77 is not in the train"):
        splits(beir(tmp_path / "e", train="q77 p0 1"))
