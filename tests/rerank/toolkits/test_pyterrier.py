"""PyTerrier's artifact gives what the index gives, without Java."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipair_index import DiPairIndex, DirectoryError, MissingPassagesError, Passage
from dipair_index.encoders.dual_encoder import DualEncoder

pytest.importorskip("pyterrier")

import ir_measures
import pandas as pd
import pyterrier as pt
from lz4.frame import LZ4FrameFile

from dipair_index.rerank.toolkits.pyterrier import DiPairArtifact

TOPICS = pd.DataFrame(
    [("q1", "why the bees dance in winter"), ("q2", "how heat and light is to the moon")],
    columns=["qid", "query"],
)


@pytest.fixture(scope="module")
def artifact(index_dir: Path, encoder: DualEncoder) -> Iterator[DiPairArtifact]:
    found = pt.Artifact.load(str(index_dir), model=encoder)
    yield found
    found.index.close()


def test_an_index_is_recognised_as_an_artifact(artifact: DiPairArtifact, tmp_path: Path) -> None:
    assert isinstance(artifact, DiPairArtifact)
    assert pt.inspect.artifact_type_format(artifact) == ("multi_vector_index", "dipair")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="No implementation found"):
        pt.Artifact.load(str(tmp_path))


def test_the_retriever_returns_what_search_returns(
    artifact: DiPairArtifact, index: DiPairIndex
) -> None:
    found = artifact.retriever(top_k=5, candidates=20)(TOPICS)
    expected = [
        (qid, query, passage.id, passage.rank - 1, passage.title, passage.text)
        for qid, query in TOPICS.itertuples(index=False)
        for passage in index.search(query, 5, 20)
    ]
    columns = ["qid", "query", "docno", "rank", "title", "text"]
    assert [*found[columns].itertuples(index=False, name=None)] == expected
    logits = [p.score for query in TOPICS["query"] for p in index.search(query, 5, raw_scores=True)]
    assert [*found["score"]] == pytest.approx(logits, abs=1e-5)


def test_the_retriever_takes_the_settings_of_search(
    artifact: DiPairArtifact, index: DiPairIndex
) -> None:
    settings = {"filter": {"column": 0}, "fusion": "rrf"}
    found = artifact.retriever(3, 50, **settings).search(TOPICS["query"][0])
    expected = index.search(TOPICS["query"][0], 3, 50, **settings)
    assert [*found["docno"]] == [passage.id for passage in expected]
    assert [*found["score"]] == pytest.approx([passage.score for passage in expected], abs=1e-6)


def test_the_reranker_gives_the_logits_of_rerank_and_keeps_other_columns(
    artifact: DiPairArtifact, index: DiPairIndex
) -> None:
    given = pd.DataFrame(
        [
            ("q2", TOPICS["query"][1], "p03", 0, 9.0, "a"),
            ("q2", TOPICS["query"][1], "p10", 1, 8.0, "b"),
            ("q1", TOPICS["query"][0], "p03", 0, 2.0, "c"),
            ("q1", TOPICS["query"][0], "p11", 1, 1.0, "d"),
            ("q1", TOPICS["query"][0], "p00", 2, 0.5, "e"),
        ],
        columns=["qid", "query", "docno", "rank", "score", "note"],
    )
    found = artifact.reranker()(given)
    notes = {(row.qid, row.docno): row.note for row in given.itertuples()}
    expected = [
        (qid, passage.id, passage.rank - 1, query, notes[qid, passage.id])
        for qid, query, ids in (
            ("q2", TOPICS["query"][1], ["p03", "p10"]),
            ("q1", TOPICS["query"][0], ["p03", "p11", "p00"]),
        )
        for passage in index.rerank(query, ids)
    ]
    columns = ["qid", "docno", "rank", "query", "note"]
    assert [*found[columns].itertuples(index=False, name=None)] == expected
    pairs = {(row.qid, row.docno): row.score for row in found.itertuples()}
    [logit] = index.rerank(TOPICS["query"][1], ["p10"], raw_scores=True)
    assert pairs["q2", "p10"] == pytest.approx(logit.score, abs=1e-5)
    with pytest.raises(MissingPassagesError, match="nowhere"):
        artifact.reranker()(given.assign(docno="nowhere"))


def test_no_queries_have_no_results(artifact: DiPairArtifact) -> None:
    found = artifact.retriever()(TOPICS.iloc[:0])
    assert (len(found), "score" in found.columns) == (0, True)
    assert len(artifact.reranker()(found)) == 0


def test_an_experiment_measures_as_ir_measures_does_without_java(
    artifact: DiPairArtifact, index: DiPairIndex
) -> None:
    search = artifact.retriever(8, 20)
    qrels = pd.DataFrame(
        [("q1", "p00", 1), ("q1", "p02", 2), ("q2", "p09", 1), ("q2", "p10", 1)],
        columns=["qid", "docno", "label"],
    )
    names = ["nDCG@10", "RR@10", "R@8"]
    systems = [search, artifact.retriever(8, rerank=False) >> artifact.reranker()]
    measured = pt.Experiment(
        systems, TOPICS, qrels, [ir_measures.parse_measure(name) for name in names],
        names=["search", "rerank"],
    )  # fmt: skip
    judged = {"q1": {"p00": 1, "p02": 2}, "q2": {"p09": 1, "p10": 1}}
    asked = dict(TOPICS.itertuples(index=False))
    runs = {"search": {q: index.search(text, 8, 20) for q, text in asked.items()}}
    runs["rerank"] = {
        q: index.rerank(text, [p.id for p in index.search(text, 8, rerank=False)])
        for q, text in asked.items()
    }
    for system, rankings in runs.items():
        run = {q: {p.id: p.score for p in ranking} for q, ranking in rankings.items()}
        expected = ir_measures.calc_aggregate(map(ir_measures.parse_measure, names), judged, run)
        row = measured.set_index("name").loc[system]
        assert 0 < row["nDCG@10"] < 1
        for measure, value in expected.items():
            assert row[str(measure)] == pytest.approx(value, abs=1e-9)
    assert not pt.java.started()


def test_the_indexer_builds_what_build_builds(
    passages: list[Passage], encoder: DualEncoder, index: DiPairIndex, tmp_path: Path
) -> None:
    documents = [
        {"docno": each.id, "text": each.text, "title": each.title, **each.metadata}
        for each in passages
    ]
    artifact = DiPairArtifact(tmp_path / "made.index")
    made = artifact.indexer(model=encoder, codec="float32").index(iter(documents))
    assert pt.inspect.indexer_inputs(artifact.indexer()) == [["docno", "text"]]
    query = TOPICS["query"][0]
    found, expected = made.index.search(query), index.search(query)
    assert [each._replace(score=0, retrieval_score=0) for each in found] == [
        each._replace(score=0, retrieval_score=0) for each in expected
    ]
    assert [each.score for each in found] == pytest.approx(
        [each.score for each in expected], abs=1e-6
    )
    with pytest.raises(DirectoryError, match="there is an index at"):
        artifact.indexer(model=encoder).index(documents)
    made.index.close()


def test_a_packed_artifact_answers_as_before(
    artifact: DiPairArtifact, encoder: DualEncoder, tmp_path: Path
) -> None:
    packed = artifact.build_package(str(tmp_path / "packed.tar.lz4"), verbose=False)
    with LZ4FrameFile(packed) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    again = pt.Artifact.load(str(tmp_path / "unpacked"), model=encoder)
    pd.testing.assert_frame_equal(again.retriever()(TOPICS), artifact.retriever()(TOPICS))
    again.index.close()


def test_what_the_transformers_need_can_be_inspected(artifact: DiPairArtifact) -> None:
    retriever, reranker = artifact.retriever(), artifact.reranker()
    assert pt.inspect.transformer_inputs(retriever) == [["qid", "query"]]
    assert pt.inspect.transformer_inputs(reranker) == [["qid", "docno", "query"]]
    assert {"docno", "score", "rank"} <= {
        *pt.inspect.transformer_outputs(retriever, ["qid", "query"])
    }
