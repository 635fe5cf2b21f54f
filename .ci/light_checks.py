"""The life of an index in an environment that has the core alone; run by `.ci/light`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

COMMAND = Path(sys.executable).with_name("dipair-index")
OPTIONAL = ("torch", "transformers", "safetensors", "tensorstore", "onnx", "ir_measures")
QUERY = "why does a honey bee die after stinging someone"
OCTOPUS = "how many hearts does an octopus from the new passage have"


def run(*arguments: str, code: int = 0) -> str:
    """What a command prints; its errors are part of it where it is to end with another code."""
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def answers(query: str, top_k: int = 5) -> list[tuple[str, float]]:
    """The ids and scores of a query."""
    found = json.loads(run("rerank", "--json", "--top-k", str(top_k), "--query", query))
    return [(each["id"], each["score"]) for each in found["results"]]


def passages() -> int:
    """How many passages the index holds."""
    return int(json.loads(run("info", "--json"))["passages"])


def reciprocal_rank(run_lines: str, sample: Path) -> float:
    """The mean over the sample's judged dev queries of 1 / the rank of the first relevant one."""
    relevant: dict[str, set[str]] = {}
    for line in (sample / "qrels.dev.tsv").read_text(encoding="utf-8").splitlines():
        query_id, _, passage_id, _ = line.split()
        relevant.setdefault(query_id, set()).add(passage_id)
    first: dict[str, int] = {}
    for line in run_lines.splitlines():
        query_id, _, passage_id, rank, *_ = line.split()
        if passage_id in relevant.get(query_id, ()):
            first.setdefault(query_id, int(rank))
    return sum(1 / first[query_id] for query_id in first) / len(relevant)


present = [name for name in OPTIONAL if find_spec(name)]
assert not present, f"the core has brought {present}"

table = json.loads(run("make-dataset", "msmarco", "--sample", "--json"))["table"]
assert [table[split]["pairs"] for split in ("transfer", "train", "valid", "test")] == [
    4800, 354, 74, 88,
]  # fmt: skip
vectors = json.loads(
    run("make-dataset", "msmarco", "--sample", "--json", "--vectors", "model", "--out", "model.set")
)
assert vectors["embedder"]["dim"] == 384, vectors

run("build")
assert passages() == 336
before = answers(QUERY)
assert before[0][0] == "honey-bees-6", before

import dipair_index  # noqa: E402

sample = Path(dipair_index.__file__).parent / "sample"
ranked = run("rerank", "--trec", "--queries", str(sample / "queries.dev.tsv"))
assert (quality := reciprocal_rank(ranked, sample)) > 0.85, quality

Path("more.tsv").write_text(
    "new-1\tThe octopus of the new passage has three hearts and blue blood.\n", encoding="utf-8"
)
run("add", "--corpus", "more.tsv")
assert (passages(), answers(OCTOPUS)[0][0]) == (337, "new-1")

Path("changed.tsv").write_text(
    "new-1\tA tram is a train that runs on rails in the street.\n", encoding="utf-8"
)
run("update", "--corpus", "changed.tsv")
assert (passages(), answers("what runs on rails in the street")[0][0]) == (337, "new-1")

run("delete", "new-1")
assert passages() == 336
assert "new-1" not in [name for name, _ in answers("what runs on rails in the street", 50)]

assert json.loads(run("info", "--json"))["parts"] > 1
run("compact")
after = answers(QUERY)
assert json.loads(run("info", "--json"))["parts"] == 1
assert [name for name, _ in after] == [name for name, _ in before]
assert all(abs(one - other) < 1e-6 for (_, one), (_, other) in zip(before, after, strict=True))

run("verify")
damaged = Path(shutil.copytree("dipair.index", "damaged.index"))
file = max((path for path in damaged.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
file.write_bytes(content)
assert str(file) in run("verify", "--index-dir", "damaged.index", code=1)

timed = json.loads(run("bench", "--json", "--candidates", "50", "--repeat", "1"))
assert (timed["backend"], timed["passages"]) == ("onnx", 336)
assert [(each["candidates"], each["scored"]) for each in timed["measured"]] == [(50, 50)]

sentence = run("rerank", "--backend", "torch", "--query", QUERY, code=1)
assert "run `pip install '.[torch]'` in a checkout of dipair-index" in sentence, sentence
sys.stdout.write("light: a dataset, an index and all its changes, without torch\n")
