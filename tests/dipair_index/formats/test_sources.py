"""Collections from Parquet files, from ir_datasets and from the hub, through the usual readers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_index.errors import DownloadError, FormatError, MissingPackageError
from dipair_index.formats.collections import read_passages, read_queries
from dipair_index.formats.trec import Judgement, iter_qrels, read_qrels
from dipair_index.records import Passage, Query

# ==== Parquet ====


def table(path: Path, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_rows_of_parquet_are_passages(tmp_path: Path) -> None:
    path = table(
        tmp_path / "p.parquet",
        _id=["a", "b", "c"],
        title=["Tea", None, ""],
        text=["hot", "cold", ""],
        year=[1999, None, 2001],
        tags=[["x", "y"], [], None],
        day=[date(2020, 1, 2), None, None],
        price=[Decimal("1.50"), None, None],
    )
    assert list(read_passages(path)) == [
        Passage(
            "a", "hot", "Tea", {"year": 1999, "tags": ["x", "y"], "day": "2020-01-02",
                                "price": "1.50"}
        ),
        Passage("b", "cold", "", {"tags": []}),
        Passage("c", "", "", {"year": 2001}),
    ]  # fmt: skip


def test_columns_may_be_called_as_the_field_calls_them(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", docid=[7, 8], contents=["one", "two"], title=["T", None])
    assert list(read_passages(path)) == [Passage("7", "one", "T"), Passage("8", "two")]
    path = table(tmp_path / "q.parquet", qid=["1"], query=["is tea hot?"])
    assert list(read_queries(path)) == [Query("1", "is tea hot?")]


def test_a_folder_holds_parts_of_a_corpus_beside_queries(tmp_path: Path) -> None:
    table(tmp_path / "corpus" / "part-1.parquet", id=["c"], text=["three"])
    table(tmp_path / "corpus" / "part-0.parquet", id=["a", "b"], text=["one", "two"])
    table(tmp_path / "queries.parquet", id=["q"], text=["which?"])
    assert [each.id for each in read_passages(tmp_path)] == ["a", "b", "c"]
    assert list(read_passages(tmp_path / "corpus")) == list(read_passages(tmp_path))
    assert list(read_queries(tmp_path)) == [Query("q", "which?")]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"a": ["x"], "text": ["y"]}, r"has the columns a, text: expected one of ids"),
        ({"id": ["x"], "b": ["y"]}, r"has the columns id, b: expected one of ids"),
        ({"id": ["x"], "body": ["y"], "query": ["z"]}, "expected one of ids"),
        ({"id": ["x", "x"], "text": ["y", "z"]}, r"row 2 of .*the id x was used before"),
        ({"id": [None], "text": ["y"]}, r"row 1 of .*expected a string or a whole number"),
        ({"id": [1.5], "text": ["y"]}, r"row 1 of .*expected a string or a whole number"),
        ({"id": ["x"], "text": [None]}, r'row 1 of .*expected a string in the field "text"'),
        ({"id": ["x"], "text": ["y"], "image": [b"z"]}, "row 1 of .*image holds bytes"),
    ],
)
def test_rows_that_are_no_passages_are_named(
    tmp_path: Path, columns: dict[str, list[Any]], sentence: str
) -> None:
    with pytest.raises(FormatError, match=sentence):
        list(read_passages(table(tmp_path / "p.parquet", **columns)))


def test_files_that_are_no_parquet_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("id\ttext\n")
    with pytest.raises(FormatError, match="is not a Parquet file or is damaged"):
        list(read_passages(tmp_path / "p.parquet"))
    with pytest.raises(FormatError, match="there is no file"):
        list(read_passages(tmp_path / "none.parquet"))


# ==== ir_datasets ====


class Article(NamedTuple):
    """A document as some datasets have them: without a field `text`."""

    doc_id: str
    title: str
    body: str
    year: int
    raw: bytes

    def default_text(self) -> str:
        return f"{self.title} {self.body}"


@pytest.fixture
def irds(tmp_path: Path) -> Iterator[str]:
    """A small dataset in the registry of the real package."""
    datasets = pytest.importorskip("ir_datasets")
    from ir_datasets.formats import BaseDocs

    class Articles(BaseDocs):  # type: ignore[misc]
        def docs_iter(self) -> Iterator[Article]:
            yield Article("d1", "Tea", "is hot", 1999, b"x")

        def docs_cls(self) -> type[Article]:
            return Article

    (tmp_path / "docs.tsv").write_text("d1\tbees dance\nd2\tthe moon\n", encoding="utf-8")
    (tmp_path / "queries.tsv").write_text("q1\thow bees dance\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("q1 0 d1 2\nq1 0 d2 0\n", encoding="utf-8")
    whole = datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels.txt"),
    )
    names = {"dipair-test": whole, "dipair-test-articles": datasets.Dataset(Articles())}
    for name, dataset in names.items():
        datasets.registry.register(name, dataset)
    yield "irds:dipair-test"
    for name in names:
        del datasets.registry._registered[name]


def test_a_dataset_of_ir_datasets_is_read_by_its_id(irds: str) -> None:
    assert list(read_passages(irds)) == [Passage("d1", "bees dance"), Passage("d2", "the moon")]
    assert list(read_queries(irds)) == [Query("q1", "how bees dance")]
    assert read_qrels(irds) == {"q1": {"d1": 2, "d2": 0}}
    first = next(iter_qrels(irds))
    assert first == Judgement("q1", "d1", 2, f"judgement 1 of {irds}")


def test_documents_without_a_text_are_known_by_their_default_one(irds: str) -> None:
    assert list(read_passages(f"{irds}-articles")) == [
        Passage("d1", "Tea is hot", "", {"year": 1999})
    ]


def test_what_ir_datasets_lacks_is_said(irds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match="has no dataset 'dipair-none': take an id"):
        list(read_passages("irds:dipair-none"))
    with pytest.raises(FormatError, match="irds:dipair-test-articles holds no queries"):
        list(read_queries(f"{irds}-articles"))
    monkeypatch.setattr("dipair_index.optional.is_installed", lambda package: False)
    with pytest.raises(MissingPackageError, match=r"needs ir-datasets.*\[irds\]"):
        list(read_passages(irds))


# ==== The hub ====


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A folder in place of what the hub's client fetches; returns what it was asked for."""
    table(tmp_path / "corpus" / "0.parquet", _id=["a"], title=["T"], text=["one"])
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "which?"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    asked: list[dict[str, Any]] = []

    def fetched(name: str, **options: Any) -> str:
        if name != "owner/set":
            raise OSError(f"no {name}")
        asked.append(options)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    return asked


def test_a_dataset_of_the_hub_is_read_by_its_name(hub: list[dict[str, Any]]) -> None:
    assert list(read_passages("hf:owner/set")) == [Passage("a", "one", "T")]
    assert list(read_queries("hf:owner/set@v1")) == [Query("q", "which?")]
    assert read_qrels("hf:owner/set") == {"q": {"a": 1}}
    assert read_qrels("hf:owner/set/qrels/test.tsv") == {"q": {"a": 1}}
    assert [each["allow_patterns"] for each in hub] == [
        ["corpus.*", "corpus/*"],
        ["queries.*", "queries/*"],
        ["qrels.*", "qrels/*"],
        ["qrels/test.tsv", "qrels/test.tsv/*"],
    ]
    assert [each["revision"] for each in hub] == [None, "v1", None, None]
    assert {each["repo_type"] for each in hub} == {"dataset"}


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("hf:owner", FormatError, "hf:owner is not a dataset of the hub: expected hf:OWNER/NAME"),
        ("hf:owner/none", DownloadError, r"cannot be fetched \(no owner/none\): check the name"),
        ("hf:owner/set/none", FormatError, "holds no none or none/"),
    ],
)
def test_a_name_that_the_hub_has_not_is_said(
    hub: list[dict[str, Any]], name: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        list(read_passages(name))
