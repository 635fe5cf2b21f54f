"""`evaluate` on runs, on a dataset's pairs and on the sample, with the tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from dipair_index.cli import Pipeline
from dipair_index.cli.evaluate import evaluate
from dipair_index.data.layout import DatasetLayout
from dipair_index.encoders.cross_encoders import TransformersTeacher
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.scorers import score_tuples
from dipair_index.formats.tables import write_table

QRELS = "q1 0 p1 2\nq1 0 p2 0\nq1 0 p3 1\nq2 0 p4 1\nq2 0 p5 0\n"
# the first run is right about q1, and has not answered q2; the second is wrong about q1
BM25 = "q1 Q0 p1 1 3.0 x\nq1 Q0 p3 2 2.0 x\nq1 Q0 p2 3 1.0 x\n"
DIPAIR = (
    "q1 Q0 p2 1 0.9 x\nq1 Q0 p3 2 0.5 x\nq1 Q0 p1 3 0.1 x\n"
    "q2 Q0 p4 1 0.9 x\nq2 Q0 p5 2 0.1 x\nq9 Q0 p1 1 0.9 x\n"
)
QUERIES = {"q1": "how bees dance", "q2": "why does dough rise", "q3": "the moon"}
PASSAGES = {
    "p1": "bees dance in the winter",
    "p2": "the queen of the bees",
    "p3": "yeast and heat",
    "p4": "the moon and the tide",
}
PAIRS = [
    ("q1", "p1", 1.0, 0.9), ("q1", "p3", 0.0, 0.1), ("q2", "p3", 1.0, 0.4),
    ("q2", "p2", 0.0, 0.6), ("q3", "p4", 1.0, 0.8), ("q3", "p2", 0.0, 0.2),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("qrels.txt", QRELS), ("bm25.run", BM25), ("dipair.run", DIPAIR)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object, **environment: str) -> Result:
    """Runs the command as `dipair-index` does, errors shown as a user sees them."""
    group = Pipeline(context_settings={"auto_envvar_prefix": "DIPAIR"})
    group.add_command(evaluate)
    result = CliRunner(env=environment).invoke(group, ["evaluate", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def make_dataset(folder: Path, pairs: list[tuple[str, str, float, float]], *columns: str) -> Path:
    layout = DatasetLayout(folder)
    folder.mkdir()
    table = dict(
        zip(("query_id", "passage_id", "label", "score"), zip(*pairs, strict=True), strict=True)
    )
    table = {name: list(table[name]) for name in ("query_id", "passage_id", "label", *columns)}
    write_table(pa.table(table), layout.pairs("test"))
    write_table(pa.table({name: [] for name in table}), layout.pairs("valid"))
    for path, id_column, texts in (
        (layout.queries, "query_id", QUERIES),
        (layout.passages, "passage_id", PASSAGES),
    ):
        write_table(pa.table({id_column: list(texts), "text": list(texts.values())}), path)
    layout.record.write_text("{}")
    return folder


@pytest.fixture
def dataset(folder: Path) -> Path:
    return make_dataset(folder / "dipair.dataset", PAIRS, "score")


@pytest.fixture(scope="session")
def teacher_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> Path:
    """A cross-encoder with random weights and one output."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("models") / "teacher"
    model = BertForSequenceClassification.from_pretrained(tiny_encoder_dir, num_labels=1)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


# ==== Runs ====


def test_runs_stand_below_each_other_and_are_compared_with_the_first() -> None:
    result = run("--qrels", "qrels.txt", "bm25.run", "dipair.run", "--resamples", 500)
    header, *lines = rows(result)
    assert header == ["measure", "system", "value", "difference", "low", "high", "p"]
    assert [line[:3] for line in lines if line[0] != "nDCG@10"] == [
        ["RR@10", "bm25.run", "0.5000"],
        ["RR@10", "dipair.run", "0.7500"],
        ["R@100", "bm25.run", "0.5000"],
        ["R@100", "dipair.run", "1.0000"],
    ]
    assert lines[2][3:] == ["", "", "", ""]
    assert lines[3][3:6] == ["+0.2500", "-0.5000", "+1.0000"]
    assert 0 < float(lines[3][6]) <= 1
    assert "bm25.run ranks nothing for 1 judged query: it counts as 0" in result.stderr
    assert "dipair.run ranks 1 query without judgements: left out" in result.stderr
    assert "compared with bm25.run by 500 resamples of the queries" in result.stderr


def test_the_baseline_and_the_measures_can_be_chosen() -> None:
    chosen = ("--baseline", "dipair.run", "--measure", "P(rel=2)@1", "--measure", "auc")
    result = run("--qrels", "qrels.txt", "bm25.run", "dipair.run", *chosen, "--relevant-from", 1)
    lines = rows(result)[1:]
    # AUC: of q1 alone, whose pairs both rank
    assert [line[:4] for line in lines] == [
        ["P(rel=2)@1", "bm25.run", "0.5000", "+0.5000"],
        ["P(rel=2)@1", "dipair.run", "0.0000", ""],
        ["AUC", "bm25.run", "1.0000", "+1.0000"],
        ["AUC", "dipair.run", "0.0000", ""],
    ]
    assert "AUC: of 3 of 5 judged pairs, ranked by all runs" in result.stderr


def test_what_is_relevant_goes_into_the_default_measures() -> None:
    lines = rows(run("--qrels", "qrels.txt", "dipair.run", "--relevant-from", 2))
    assert [line[0] for line in lines] == ["measure", "nDCG@10", "RR(rel=2)@10", "R(rel=2)@100"]


def test_one_run_and_no_resamples_are_not_compared() -> None:
    one = run("--qrels", "qrels.txt", "bm25.run")
    none = run("--qrels", "qrels.txt", "bm25.run", "dipair.run", "--resamples", 0)
    for result in (one, none):
        assert rows(result)[0] == ["measure", "system", "value"]
        assert "compared" not in result.stderr


def test_json_holds_how_it_was_measured() -> None:
    result = run("--qrels", "qrels.txt", "bm25.run", "dipair.run", "--json", "--measure", "RR@10")
    found = json.loads(result.stdout)
    first, second = found.pop("results")
    assert found == {
        "queries": 2, "relevant_from": None, "baseline": "bm25.run", "resamples": 10_000, "seed": 0
    }  # fmt: skip
    assert first == {
        "measure": "RR@10", "system": "bm25.run", "value": 0.5,
        "difference": None, "low": None, "high": None, "p": None,
    }  # fmt: skip
    assert (second["difference"], second["low"], second["high"]) == (0.25, -0.5, 1.0)


def test_runs_of_the_same_name_are_told_apart_by_their_paths(folder: Path) -> None:
    (folder / "other").mkdir()
    shutil.copy("dipair.run", "other/bm25.run")
    arguments = ("--qrels", "qrels.txt", "bm25.run", "other/bm25.run", "dipair.run")
    systems = [line[1] for line in rows(run(*arguments, "--measure", "AP"))[1:]]
    assert systems == ["bm25.run", "other/bm25.run", "dipair.run"]


def test_a_model_of_the_environment_is_not_in_the_way_of_runs() -> None:
    assert rows(run("--qrels", "qrels.txt", "bm25.run", DIPAIR_MODEL="some.model"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("bm25.run", 2, "need judgements: give --qrels FILE too"),
        ("--qrels qrels.txt", 2, "--qrels needs run files: add them"),
        ("--qrels qrels.txt bm25.run --model m", 2, "--model is for the pairs of a dataset: leave"),
        ("--qrels qrels.txt bm25.run --split test", 2, "--split is for the pairs of a dataset"),
        ("--qrels qrels.txt --index-dir i", 2, "--index-dir needs --queries FILE: add it"),
        (
            "--qrels qrels.txt --queries q bm25.run",
            2,
            "--queries needs --index-dir: add it",
        ),
        ("--queries q --index-dir i", 2, "need judgements: give --qrels FILE too"),
        (
            "--qrels qrels.txt --queries q.tsv --index-dir i",
            1,
            "q.tsv lacks 1 of the queries that "
            "qrels.txt judges, such as q2: give the file with all of them",
        ),
        ("--qrels qrels.txt bm25.run bm25.run", 2, "bm25.run is given 2 times: give it once"),
        ("--qrels qrels.txt bm25.run --baseline x", 2, "there is no system 'x' to compare with"),
        ("--qrels qrels.txt bm25.run --measure F1", 1, "unknown measure F1: expected AUC"),
        (
            "--ignore-identical-ids",
            2,
            "--ignore-identical-ids needs run files: add them, or leave it out",
        ),
        ("--qrels qrels.txt bm25.run --measure AUC", 1, "say with --relevant-from"),
        ("--qrels qrels.txt other.run", 1, "other.run ranks none of the 2 queries that qrels.txt"),
        ("--qrels qrels.txt missing.run", 1, "there is no file missing.run"),
        ("--dataset nothing", 1, "nothing is not a dataset"),
        ("--split test", 1, "dipair.dataset is not a dataset"),
    ],
)
def test_what_cannot_be_measured_is_said(
    folder: Path, arguments: str, code: int, message: str
) -> None:
    (folder / "other.run").write_text("7 Q0 p1 1 3.0 x\n")
    (folder / "q.tsv").write_text("q1\thow bees dance\n")
    result = run(*arguments.split())
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_ids_of_another_collection_are_noticed(folder: Path) -> None:
    (folder / "lost-zeros.run").write_text("q1 Q0 d1 1 3.0 x\nq1 Q0 d9 2 2.0 x\nq2 Q0 d4 1 1 x\n")
    result = run("--qrels", "qrels.txt", "lost-zeros.run", "bm25.run", "--resamples", "0")
    assert (
        "lost-zeros.run ranks a passage that qrels.txt judges for 0 of 2 queries: for query q1 it "
        "ranks passage d1 first, and judged is p1. Are both of one collection?\n"
    ) in result.stderr
    assert "bm25.run ranks a passage" not in result.stderr  # of one query of one


def test_a_run_that_was_cut_is_noticed(folder: Path) -> None:
    deep = "".join(f"q1 Q0 p{n} {n} {-n} x\n" for n in range(1, 13))
    (folder / "deep.run").write_text(deep)
    result = run("--qrels", "qrels.txt", "deep.run", "bm25.run", "--resamples", "0")
    assert (
        "bm25.run ranks up to 3 passages a query, and another run 12: by nDCG@10, RR@10, R@100 "
        "it may look worse for that alone\n"
    ) in result.stderr
    assert "deep.run ranks up to" not in result.stderr
    result = run("--qrels", "qrels.txt", "deep.run", "bm25.run", "--measure", "P@3")
    assert "may look worse" not in result.stderr


def test_a_query_is_no_answer_to_itself_where_that_is_asked_for(folder: Path) -> None:
    (folder / "argu.run").write_text("q1 Q0 q1 1 9 x\nq1 Q0 p1 2 8 x\nq2 Q0 p4 1 7 x\n")
    command = ("--qrels", "qrels.txt", "argu.run", "--measure", "RR", "--json")
    assert json.loads(run(*command).stdout)["results"][0]["value"] == pytest.approx(0.75)
    answer = json.loads(run(*command, "--ignore-identical-ids").stdout)
    assert answer["results"][0]["value"] == pytest.approx(1)


def test_only_the_measure_that_cannot_be_computed_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ir_measures

    compute = ir_measures.iter_calc

    def failing(measures: Any, qrels: Any, ranking: Any) -> Any:
        if any(str(each) == "P@5" for each in measures):
            raise RuntimeError("no perl")
        return compute(measures, qrels, ranking)

    monkeypatch.setattr(ir_measures, "iter_calc", failing)
    names = ("--measure", "RR", "--measure", "P@5", "--measure", "R@5")
    result = run("--qrels", "qrels.txt", "bm25.run", *names)
    assert result.exit_code == 1
    assert "cannot compute P@5 of bm25.run (no perl): leave it out" in result.stderr


def test_an_index_answers_the_judged_queries_by_search_and_by_head(
    folder: Path, tiny_model_dir: Path
) -> None:
    from dipair_index.records import Passage
    from dipair_index.rerank.build import build_index
    from dipair_index.rerank.index import DiPairIndex

    passages = [Passage(name, text) for name, text in PASSAGES.items()]
    build_index(passages, folder / "shop.index", DualEncoder.load(tiny_model_dir))
    (folder / "queries.tsv").write_text("".join(f"{k}\t{text}\n" for k, text in QUERIES.items()))
    result = run("--qrels", "qrels.txt", "bm25.run", "--queries", "queries.tsv",
                 "--index-dir", "shop.index", "--measure", "RR(rel=2)@10", "--json")  # fmt: skip
    found = {each["system"]: each["value"] for each in json.loads(result.stdout)["results"]}
    assert list(found) == ["bm25.run", "shop.index: vector search", "shop.index: reranked"]
    with DiPairIndex.open(folder / "shop.index", tiny_model_dir) as index:
        for system, rerank in (("vector search", False), ("reranked", True)):
            ids = [passage.id for passage in index.search(QUERIES["q1"], 4, 4, rerank=rerank)]
            # q2 has no passage of grade 2
            expected = 1 / (1 + ids.index("p1")) / 2
            assert found[f"shop.index: {system}"] == pytest.approx(expected)


# ==== A dataset's pairs ====


def test_models_score_the_pairs_of_a_dataset_and_the_miner_stands_last(
    dataset: Path, tiny_model_dir: Path, teacher_dir: Path
) -> None:
    result = run("--model", tiny_model_dir, "--model", teacher_dir, "--resamples", 200, "--json")
    queries = [QUERIES[query_id] for query_id, *_ in PAIRS]
    passages = [PASSAGES[passage_id] for _, passage_id, *_ in PAIRS]
    texts = {"query": queries, "passage": passages}
    labels = np.array([label for *_, label, _ in PAIRS])
    scores = {
        tiny_model_dir.name: score_tuples(DualEncoder.load(tiny_model_dir), texts),
        "teacher": TransformersTeacher.load(str(teacher_dir)).logits(queries, passages),
        "miner": np.array([score for *_, score in PAIRS]),
    }
    found = json.loads(result.stdout)
    assert (found["queries"], found["baseline"]) == (3, tiny_model_dir.name)
    assert [(each["measure"], each["system"], each["value"]) for each in found["results"]] == [
        ("AUC", name, pytest.approx(roc_auc_score(labels, each))) for name, each in scores.items()
    ]
    # the miner: of nine comparisons, only 0.4 against 0.6 is wrong
    assert found["results"][2]["value"] == pytest.approx(8 / 9)
    assert "dipair.dataset, test: 6 pairs of 3 queries" in result.stderr


def test_graded_labels_are_correlated_and_no_miner_is_asked_for(
    folder: Path, tiny_model_dir: Path
) -> None:
    graded = [
        (*pair[:2], label, 0.0) for pair, label in zip(PAIRS, (1, 0.5, 0, 0.3, 1, 0.2), strict=True)
    ]
    dataset = make_dataset(folder / "graded", graded)
    arguments = ("--dataset", dataset, "--model", tiny_model_dir)
    (line,) = rows(run(*arguments))[1:]
    assert line[:2] == ["Pearson", tiny_model_dir.name]
    assert [line[0] for line in rows(run(*arguments, "--relevant-from", 0.5))[1:]] == ["AUC"]


def test_what_a_dataset_cannot_give_is_said_before_a_model_is_loaded(
    dataset: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **settings: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("dipair_index.encoders.scorers.scores_of_model", load)
    graded = make_dataset(folder / "graded", [(*PAIRS[0][:2], label, 0.0) for label in (0.1, 0.2)])
    for arguments, message in (
        (("--split", "valid"), "the valid split of dipair.dataset is empty"),
        (("--baseline", "bm25"), "no system 'bm25' to compare with: expected default, miner"),
        (("--relevant-from", 2), "--relevant-from 2 makes none of the 6 judged pairs relevant"),
        (("--dataset", graded, "--measure", "nDCG@10"), "ranking measures need whole grades"),
        (("--model", "a/m", "--model", "a/m"), "a/m is given 2 times"),
    ):
        result = run(*arguments)
        assert result.exit_code != 0
        assert message in " ".join(result.stderr.split())


def test_a_folder_that_is_no_model_is_named(dataset: Path, folder: Path) -> None:
    (folder / "thesis").mkdir()
    result = run("--model", "thesis")
    assert result.exit_code == 1
    assert (
        "no model could be loaded from thesis (it has no config.json that names its kind): name a "
        "folder that"
    ) in result.stderr


# ==== With nothing added ====


def test_with_nothing_added_the_sample_is_reranked(
    folder: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = folder / "sample"
    sample.mkdir()
    for name, texts in (("collection.tsv", PASSAGES), ("queries.dev.tsv", QUERIES)):
        (sample / name).write_text("".join(f"{key}\t{text}\n" for key, text in texts.items()))
    (sample / "qrels.dev.tsv").write_text("q1\t0\tp1\t1\nq2\t0\tp3\t1\nq3\t0\tp4\t1\n")
    monkeypatch.setattr("dipair_index.formats.msmarco.sample_folder", lambda: sample)
    monkeypatch.setattr("dipair_index.models.packaged.default_model_folder", lambda: tiny_model_dir)
    before = sorted(folder.rglob("*"))

    result = run()
    lines = rows(result)[1:]
    assert [line[:2] for line in lines[:2]] == [
        ["nDCG@10", "default: vector search"],
        ["nDCG@10", "default: reranked"],
    ]
    # with four passages in all, whatever is relevant is found
    assert [line[2] for line in lines if line[0] == "R@100"] == ["1.0000", "1.0000"]
    assert "measuring 3 dev queries of the bundled sample" in result.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from dipair_index.cli import _console as console

    monkeypatch.setattr(console, "_is_terminal", lambda stream: True)
    result = run("--qrels", "qrels.txt", "bm25.run", "dipair.run", "--measure", "RR@10")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()[:2] == "RR"]
    assert [line[:3] for line in lines] == [
        ["RR@10", "bm25.run", "0.5000"], ["RR@10", "dipair.run", "0.7500"]
    ]  # fmt: skip


def test_help_has_an_example_and_says_how_missing_queries_count() -> None:
    help_text = run("--help").stdout
    assert "Example:\n    dipair-index evaluate" in help_text
    assert "counts as 0 (trec_eval -c)" in " ".join(help_text.split())
    for parameter in evaluate.params:
        assert isinstance(parameter, click.Argument) or parameter.help
