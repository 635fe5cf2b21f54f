import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.rerank.index import DiPairIndex

Run = Callable[..., Result]
QUERY = "how bees dance"

pytestmark = pytest.mark.usefixtures("tiny_package")


@pytest.fixture
def expected(built_index: Path) -> list[str]:
    with DiPairIndex.open(built_index) as index:
        return [passage.id for passage in index.search(QUERY)]


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.tsv"
    path.write_text(f"q1\t{QUERY}\nq2\tthe moon\n")
    return path


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_a_pipe_gets_tab_separated_lines_and_stderr_the_timings(
    run: Run, built_index: Path, expected: list[str]
) -> None:
    result = run("rerank", "--index-dir", built_index, "--query", QUERY, "--top-k", "3")
    header, *lines = rows(result)

    assert header == ["rank", "score", "retrieval rank", "id", "text"]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [line[3] for line in lines] == expected[:3]
    assert all(0 <= float(line[1]) <= 1 and 1 <= int(line[2]) <= 6 for line in lines)
    parts = [part.split()[0] for part in result.stderr.strip().split(", ")]
    assert parts == ["encode", "retrieve", "gather", "score"]
    assert result.stderr.endswith("(1 query)\n")


def test_the_query_may_come_on_stdin(run: Run, built_index: Path, expected: list[str]) -> None:
    result = run("rerank", "--index-dir", built_index, "--query", "-", stdin=f"{QUERY}\n")
    assert [line[3] for line in rows(result)[1:]] == expected


def test_json_holds_everything_that_is_known(
    run: Run, built_index: Path, expected: list[str]
) -> None:
    result = run("rerank", "--index-dir", built_index, "--query", QUERY, "--json")
    answer = json.loads(result.stdout)

    assert (answer["query_id"], answer["query"]) == ("query", QUERY)
    assert [passage["id"] for passage in answer["results"]] == expected
    assert [passage["rank"] for passage in answer["results"]] == [1, 2, 3, 4, 5, 6]
    assert set(answer["results"][0]) == {
        "id", "score", "rank", "text", "title", "metadata", "retrieval_rank", "retrieval_score"
    }  # fmt: skip


def test_raw_scores_are_logits(run: Run, built_index: Path) -> None:
    import math

    command = ["rerank", "--index-dir", built_index, "--query", QUERY, "--json"]
    scores = [p["score"] for p in json.loads(run(*command).stdout)["results"]]
    logits = [p["score"] for p in json.loads(run(*command, "--raw-scores").stdout)["results"]]
    assert scores == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits])


def test_no_rerank_shows_the_first_stage(run: Run, built_index: Path) -> None:
    command = ["rerank", "--index-dir", built_index, "--query", QUERY]
    result = run(*command, "--no-rerank", "--top-k", "4", "--candidates", "1")
    nearest = rows(result)[1:]

    assert [line[2] for line in nearest] == ["1", "2", "3", "4"]
    assert "score" not in result.stderr
    reranked = {line[3]: line[2] for line in rows(run(*command))[1:]}
    assert [reranked[line[3]] for line in nearest] == ["1", "2", "3", "4"]


def test_compare_sets_the_two_orders_side_by_side(
    run: Run, built_index: Path, expected: list[str]
) -> None:
    command = ["rerank", "--index-dir", built_index, "--query", QUERY, "--top-k", "3"]
    title, header, *lines = rows(run(*command, "--compare"))
    nearest = [line[3] for line in rows(run(*command, "--no-rerank"))[1:]]

    assert (title, header) == ([QUERY], ["rank", "vector search", "DiPair"])
    assert [line[1].split(":")[0] for line in lines] == nearest
    assert [line[2].split(":")[0] for line in lines] == expected[:3]


def test_queries_give_a_trec_run(
    run: Run, built_index: Path, queries: Path, expected: list[str]
) -> None:
    result = run("rerank", "--index-dir", built_index, "--queries", queries, "--trec")
    fields = [line.split() for line in result.stdout.splitlines()]

    assert result.exit_code == 0
    assert [line[0] for line in fields] == ["q1"] * 6 + ["q2"] * 6
    assert [line[2] for line in fields[:6]] == expected
    assert [line[3] for line in fields] == ["1", "2", "3", "4", "5", "6"] * 2
    assert {(line[1], line[5]) for line in fields} == {("Q0", "dipair-index")}
    assert result.stderr.endswith("(2 queries)\n")


def test_queries_without_trec_give_a_table_that_says_which(
    run: Run, built_index: Path, queries: Path
) -> None:
    lines = rows(run("rerank", "--index-dir", built_index, "--queries", queries, "--top-k", "2"))
    assert [line[0] for line in lines] == ["query", "q1", "q1", "q2", "q2"]


def test_many_queries_are_answered_in_groups(
    run: Run, built_index: Path, tmp_path: Path, expected: list[str]
) -> None:
    (tmp_path / "many.tsv").write_text("".join(f"q{n:02}\t{QUERY}\n" for n in range(70)))
    result = run("rerank", "--index-dir", built_index, "--queries", tmp_path / "many.tsv", "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]

    assert [answer["query_id"] for answer in answers] == [f"q{n:02}" for n in range(70)]
    assert {tuple(p["id"] for p in answer["results"]) for answer in answers} == {tuple(expected)}


def test_a_run_is_reranked_without_adding_or_losing_passages(
    run: Run, built_index: Path, queries: Path, tmp_path: Path, expected: list[str]
) -> None:
    (tmp_path / "bm25.run").write_text(
        "q1 Q0 p6 1 9.0 bm25\nq1 Q0 p2 2 8.0 bm25\nq1 Q0 p4 3 7.0 bm25\n"
    )
    command = ["rerank", "--index-dir", built_index, "--queries", queries]
    result = run(*command, "--run", tmp_path / "bm25.run")
    lines = rows(result)[1:]

    assert [line[4] for line in lines] == [each for each in expected if each in {"p2", "p4", "p6"}]
    assert {line[4]: line[3] for line in lines} == {"p6": "1", "p2": "2", "p4": "3"}
    assert "1 query has no line in" in result.stderr
    compared = rows(run(*command, "--run", tmp_path / "bm25.run", "--compare"))
    assert compared[1] == ["rank", "run", "DiPair"]
    assert [line[1].split(":")[0] for line in compared[2:]] == ["p6", "p2", "p4"]


def test_a_run_is_cut_only_where_that_is_asked_for(
    run: Run, tmp_path: Path, tiny_model_dir: Path, queries: Path
) -> None:
    corpus = "".join(f"p{n}\tbees and the moon, {n} times\n" for n in range(14))
    (tmp_path / "c.tsv").write_text(corpus)
    index = tmp_path / "i"
    run("build", "--corpus", tmp_path / "c.tsv", "--index-dir", index, "--model", tiny_model_dir)
    lines = [f"q1 Q0 p{n} {n} {-n} x\n" for n in range(14)] + ["q2 Q0 p3 1 1 x\n"]
    (tmp_path / "bm25.run").write_text("".join(lines))
    command = ["rerank", "--index-dir", index, "--queries", queries]
    command += ["--run", tmp_path / "bm25.run", "--trec"]

    whole = run(*command)
    assert len(whole.stdout.splitlines()) == 15
    assert "--top-k" not in whole.stderr
    cut = run(*command, "--top-k", "5")
    assert cut.stdout.splitlines() == [
        *whole.stdout.splitlines()[:5],
        whole.stdout.splitlines()[14],
    ]
    assert "bm25.run, which ranks up to 14 passages a query" in cut.stderr
    assert "--top-k 5 cuts" in cut.stderr
    assert run(*command, "--top-k", "14").stdout == whole.stdout
    # without a run, ten are printed
    assert len(run(*command[:5], "--trec").stdout.splitlines()) == 20


def test_a_query_is_no_answer_to_itself_where_that_is_asked_for(
    run: Run, built_index: Path, tmp_path: Path
) -> None:
    (tmp_path / "q.tsv").write_text("p1\thow bees dance in the winter\nq2\tthe moon\n")
    command = ["rerank", "--index-dir", built_index, "--queries", tmp_path / "q.tsv", "--json"]
    first, second = map(json.loads, run(*command).stdout.splitlines())
    for more in ([], ["--no-rerank"]):
        with_own, other = map(json.loads, run(*command, *more).stdout.splitlines())
        without, same = map(
            json.loads, run(*command, *more, "--ignore-identical-ids").stdout.splitlines()
        )
        kept = [each for each in with_own["results"] if each["id"] != "p1"]
        assert len(kept) == 5
        assert [each["id"] for each in without["results"]] == [each["id"] for each in kept]
        assert [each["rank"] for each in without["results"]] == [1, 2, 3, 4, 5]
        assert sorted(each["retrieval_rank"] for each in without["results"]) == [1, 2, 3, 4, 5]
        assert same == other
    # as many candidates as were asked for, and none besides
    few = [*command, "--candidates", "2", "--top-k", "2", "--ignore-identical-ids"]
    answers = [json.loads(line)["results"] for line in run(*few).stdout.splitlines()]
    assert [len(results) for results in answers] == [2, 2]
    nearest = sorted(second["results"], key=lambda each: each["retrieval_rank"])[:2]
    assert {each["id"] for each in answers[1]} == {each["id"] for each in nearest}
    assert len(first["results"]) == 6
    (tmp_path / "a.run").write_text("p1 Q0 p1 1 9 x\np1 Q0 p2 2 8 x\nq2 Q0 p3 1 7 x\n")
    reranked = [*command, "--run", tmp_path / "a.run", "--ignore-identical-ids"]
    answers = [json.loads(line)["results"] for line in run(*reranked).stdout.splitlines()]
    assert [[each["id"] for each in results] for results in answers] == [["p2"], ["p3"]]


def test_with_nothing_built_the_sample_is_indexed_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = run("rerank", "--query", QUERY)
    assert "there is no index at dipair.index: building one of the bundled sample first" in (
        first.stderr
    )
    second = run("rerank", "--query", QUERY)

    assert [line[3] for line in rows(first)[1:]] == expected
    assert first.stdout == second.stdout
    assert "building" not in second.stderr


def test_an_unfinished_index_of_the_sample_is_finished_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str]
) -> None:
    from dipair_index.stores.ann import FaissIndex

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FaissIndex, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = run("rerank", "--query", QUERY)
    assert stopped.exit_code == 130
    assert stopped.stderr.splitlines()[-1] == (
        "Error: interrupted: 6 passages are stored in dipair.index/building, run the same command "
        "to go on"
    )
    again = run("rerank", "--query", QUERY)
    assert "indexed 6 passages, 6 of them before" in again.stderr
    assert [line[3] for line in rows(again)[1:]] == expected


def test_an_unfinished_index_of_something_else_is_left_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Callable[[Path], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 1)
    (tmp_path / "mine.tsv").write_text("m1\tgreen tea\nbroken\n")
    assert run("build", "--corpus", "mine.tsv").exit_code == 1
    before = digest(tmp_path)
    result = run("rerank", "--query", QUERY)

    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert "the corpus does not begin with the 1 passage of the unfinished part" in last
    assert last.endswith(
        "To finish what was begun there, run its `dipair-index build` with --resume"
    )
    assert digest(tmp_path) == before


def test_an_index_that_lost_its_manifest_is_not_built_over(
    run: Run, built_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    digest: Callable[[Path], str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(built_index, "dipair.index")
    Path("dipair.index/manifest.json").unlink()
    before = digest(tmp_path)
    for command in (["rerank", "--query", QUERY], ["build"]):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is an index at dipair.index already: pass --overwrite" in result.stderr
    assert digest(tmp_path) == before


def test_a_terminal_gets_a_table(
    run: Run, built_index: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str]
) -> None:
    from dipair_index.cli import _console as console

    monkeypatch.setattr(console, "_is_terminal", lambda stream: True)
    result = run("rerank", "--index-dir", built_index, "--query", QUERY, "--top-k", "2")

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "─────" in result.stdout
    assert [line.split()[3] for line in lines if line.strip()[:1].isdigit()] == expected[:2]


def test_fusion_prints_the_order_of_both(run: Run, built_index: Path, queries: Path) -> None:
    with DiPairIndex.open(built_index) as index:
        expected = [
            (passage.id, f"{passage.score:.4f}")
            for passage in index.search(QUERY, 3, fusion="weighted", weight=0.25)
        ]
    command = ["rerank", "--index-dir", built_index, "--top-k", "3"]
    fused = [*command, "--fusion", "weighted", "--weight", "0.25"]
    assert [(row[3], row[1]) for row in rows(run(*fused, "--query", QUERY))[1:]] == expected

    retrieved = run(*command, "--queries", queries, "--no-rerank", "--trec").stdout
    (queries.parent / "first.run").write_text(retrieved)
    kept = run(*command, "--queries", queries, "--run", queries.parent / "first.run",
               "--fusion", "weighted", "--weight", "0", "--trec").stdout  # fmt: skip
    assert [row.split()[2] for row in kept.splitlines()] == [
        row.split()[2] for row in retrieved.splitlines()
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--weight", "0.5"], "--weight is that of --fusion weighted"),
        (["--fusion", "rrf", "--weight", "0.5"], "--weight is that of --fusion weighted"),
        (["--fusion", "rrf", "--no-rerank"], "--no-rerank leaves nothing to fuse"),
        (["--fusion", "rrf", "--raw-scores"], "--fusion and --raw-scores exclude each other"),
        (["--fusion", "rrf", "--ignore-identical-ids"], "needs --run"),
        (["--first-stage", "both", "--run", "any.run"], "--run is a first stage itself"),
    ],
)
def test_fusion_refuses_what_it_cannot_be_beside(
    run: Run, built_index: Path, queries: Path, options: list[str], sentence: str
) -> None:
    result = run("rerank", "--index-dir", built_index, "--queries", queries, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


@pytest.fixture
def dated_index(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """Six passages in two languages, of the years 2000 to 2005."""
    passages = [
        {"id": f"p{row}", "text": f"the moon {'and the tide ' * row}", "year": 2000 + row}
        | {"lang": "fr" if row % 2 else "en"}
        for row in range(6)
    ]
    DiPairIndex.build(passages, tmp_path / "dated.index", model=tiny_model_dir).close()
    return tmp_path / "dated.index"


@pytest.mark.parametrize(
    ("conditions", "fulfilling"),
    [
        (["lang=en"], {"p0", "p2", "p4"}),
        (["lang=en", "lang=fr", "year>=2003"], {"p3", "p4", "p5"}),
        (['{"lang": ["fr"], "year": {"lt": 2004}}'], {"p1", "p3"}),
    ],
)
@pytest.mark.parametrize("how", [[], ["--no-rerank"]])
def test_a_filter_leaves_the_passages_that_fulfil_it(
    run: Run, dated_index: Path, conditions: list[str], fulfilling: set[str], how: list[str]
) -> None:
    filters = [word for condition in conditions for word in ("--filter", condition)]
    command = ["rerank", "--index-dir", dated_index, "--query", QUERY, "--json", *how]
    everything = [each["id"] for each in json.loads(run(*command).stdout)["results"]]
    result = run(*command, *filters)
    found = json.loads(result.stdout)["results"]
    assert [each["id"] for each in found] == [each for each in everything if each in fulfilling]
    assert sorted(each["retrieval_rank"] for each in found) == list(range(1, len(fulfilling) + 1))


def test_a_filter_that_nothing_fulfils_is_said(run: Run, dated_index: Path) -> None:
    result = run("rerank", "--index-dir", dated_index, "--query", QUERY, "--filter", "lang=de")
    assert len(rows(result)) == 1
    assert "no passage of the index fulfils --filter" in result.stderr


def test_a_filter_of_a_run_is_refused(run: Run, built_index: Path, queries: Path) -> None:
    result = run("rerank", "--index-dir", built_index, "--queries", queries, "--run", "any.run",
                 "--filter", "lang=en")  # fmt: skip
    assert result.exit_code == 2
    assert "--filter narrows the search, and --run takes its place" in result.stderr


def test_words_and_both_are_first_stages(
    run: Run, tmp_path: Path, corpus: Path, tiny_model_dir: Path, built_index: Path
) -> None:
    pytest.importorskip("tantivy")
    command = ["--index-dir", tmp_path / "words.index"]
    built = run("build", *command, "--corpus", corpus, "--model", tiny_model_dir, "--lexical")
    assert built.exit_code == 0, built.output
    asked = ["rerank", *command, "--query", "does the moon dance", "--no-rerank"]
    lexical = [row[3] for row in rows(run(*asked, "--first-stage", "lexical"))[1:]]
    assert set(lexical) == {"p1", "p2", "p3", "p5", "p6"}
    assert len(rows(run(*asked, "--first-stage", "both"))) == 7
    beside = rows(run(*asked[:-1], "--first-stage", "lexical", "--compare"))
    assert [row[1].split(":")[0] for row in beside[2:]] == lexical
    described = dict(rows(run("info", *command)))
    assert described["words"] == "BM25"
    without = run("rerank", "--index-dir", built_index, "--query", QUERY, "--first-stage", "both")
    assert (without.exit_code, without.stdout) == (1, "")
    assert "was built without --lexical" in without.stderr
