"""The engine ray on real clusters of this machine: the same bytes, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import MissingPassagesError
from dipair_index.formats.places import Place
from dipair_index.formats.tables import table_bytes
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.offline.match import match_indexes

ray = pytest.importorskip("ray", reason="ray is not installed")
psutil = pytest.importorskip("psutil", reason="psutil is not installed")
pytest.importorskip("moto.server", reason="moto is not installed")

BytesIn = Callable[[Path], dict[str, bytes]]
WORKERS = 2


@pytest.fixture(scope="module")
def _cluster(bucket: str) -> Iterator[None]:
    """A cluster whose workers have the environment of the bucket."""
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def on_ray(*folders: Any, **settings: Any) -> Any:
    return match_indexes(*folders, engine="ray", workers=WORKERS, **settings)


def some_pairs(sides: Any, count: int) -> pa.Table:
    chance = Random(0)
    columns = {
        "left": [chance.choice(sides.left_ids) for _ in range(count)],
        "right": [chance.choice(sides.right_ids) for _ in range(count)],
        "label": list(range(count)),
    }
    return pa.table(columns)


@pytest.fixture
def pairs(sides: Any, tmp_path: Path) -> Path:
    pq.write_table(some_pairs(sides, 200), tmp_path / "pairs.parquet", row_group_size=30)
    return tmp_path / "pairs.parquet"


def workers() -> set[int]:
    """The processes of actors, which Ray starts below the raylet of this process."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "BlockWriter" in process.name() + " ".join(process.cmdline())
    }


@pytest.mark.usefixtures("_cluster")
def test_workers_write_the_bytes_of_one_process(
    exported: DualEncoder, passages: list[Passage], bytes_in: BytesIn, tmp_path: Path
) -> None:
    build_index(passages[:9], tmp_path / "left", exported, side="query")
    build_index(passages, tmp_path / "right", exported)
    seen: list[tuple[int, int]] = []
    settings = {"every": True, "block_pairs": 30, "backend": "onnx"}
    folders = tmp_path / "left", tmp_path / "right"
    on_ray(*folders, tmp_path / "ray", report=lambda *counts: seen.append(counts), **settings)
    match_indexes(*folders, tmp_path / "plain", **settings)
    assert bytes_in(tmp_path / "ray") == bytes_in(tmp_path / "plain")
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, 216), (216, 216))


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize("kind", ["pairs", "every", "best", "nearest"])
def test_every_kind_of_match_has_the_bytes_of_one_process(
    kind: str, sides: Any, pairs: Path, bytes_in: BytesIn, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "pairs": {"pairs": pairs, "block_pairs": 30},
        "every": {"every": True, "block_pairs": 30, "min_score": 0.4},
        "best": {"every": True, "top_k": 3, "block_pairs": 40},
        "nearest": {"nearest": 4, "block_pairs": 10},
    }[kind]  # fmt: skip
    on_ray(sides.left, sides.right, tmp_path / "ray", **settings)
    match_indexes(sides.left, sides.right, tmp_path / "plain", **settings)
    assert bytes_in(tmp_path / "ray") == bytes_in(tmp_path / "plain")


class Killer:
    """Ends both workers by kill -9 once the first blocks are done, at a moment by chance."""

    def __init__(self, seed: int) -> None:
        self.chance, self.before, self.done = Random(seed), set[int](), list[int]()

    def __call__(self, done: int, pairs: int) -> None:
        self.done.append(done)
        if done and not self.before:
            self.before = workers()
            time.sleep(0.05 * self.chance.random())
            for process in self.before:
                os.kill(process, signal.SIGKILL)
        elif len(self.done) > 6:
            self.after = workers()


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize("settings", [{}, {"every": True, "top_k": 3}], ids=["pairs", "best"])
def test_workers_that_are_killed_are_replaced_and_nothing_is_lost_or_written_twice(
    settings: dict[str, Any], sides: Any, pairs: Path, bytes_in: BytesIn, tmp_path: Path
) -> None:
    settings = {"block_pairs": 3, **(settings or {"pairs": pairs})}
    killer = Killer(len(settings))
    summary = on_ray(sides.left, sides.right, tmp_path / "ray", report=killer, **settings)
    assert len(killer.before) == WORKERS
    assert killer.after
    assert not killer.after & killer.before
    match_indexes(sides.left, sides.right, tmp_path / "plain", **settings)
    assert bytes_in(tmp_path / "ray") == bytes_in(tmp_path / "plain")
    # each block counts once
    assert killer.done == sorted(set(killer.done))
    assert killer.done[-1] == summary.pairs


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_a_run_that_was_interrupted_goes_on_by_either_engine(
    sides: Any, pairs: Path, bytes_in: BytesIn, tmp_path: Path
) -> None:
    settings = {"pairs": pairs, "block_pairs": 10}
    match_indexes(sides.left, sides.right, tmp_path / "whole", **settings)

    def stop(done: int, pairs: int) -> None:
        if done >= 50:
            raise KeyboardInterrupt

    for number, (first, second) in enumerate([(on_ray, match_indexes), (match_indexes, on_ray)]):
        out = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            first(sides.left, sides.right, out, report=stop, **settings)
        summary = second(sides.left, sides.right, out, **settings)
        assert 0 < summary.scored < summary.pairs
        assert bytes_in(out) == bytes_in(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_workers_share_pairs_tokens_and_scores_in_a_bucket(
    bucket: str, encoder: DualEncoder, passages: list[Passage], sides: Any, tmp_path: Path,
    bytes_in: BytesIn,
) -> None:  # fmt: skip
    table = some_pairs(sides, 120)
    Place(bucket).write("shared/a.parquet", table_bytes(table[:70]))
    Place(bucket).write("shared/b.parquet", table_bytes(table[70:]))
    store = {"store": "tensorstore", "store_url": f"{bucket}/shared-tokens", "codec": "int8"}
    build_index(passages, tmp_path / "right", encoder, **store)
    settings = {"pairs": f"{bucket}/shared", "block_pairs": 20}
    out = f"{bucket}/shared-scores"
    killer = Killer(0)
    on_ray(sides.left, tmp_path / "right", out, report=killer, **settings)
    assert len(killer.before) == WORKERS
    match_indexes(sides.left, tmp_path / "right", tmp_path / "plain", **settings)
    there = Place(out)
    assert {name: there.read(name) for name in there.sizes()} == bytes_in(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_what_a_worker_complains_of_is_said_in_its_sentence(sides: Any, tmp_path: Path) -> None:
    file, right = tmp_path / "pairs.parquet", ["p00"] * 30
    right[17] = "p77"
    pq.write_table(pa.table({"left": ["q01"] * 30, "right": right}), file)
    with pytest.raises(MissingPassagesError) as raised:
        on_ray(sides.left, sides.right, tmp_path / "out", pairs=file, block_pairs=5)
    assert str(raised.value) == (
        f"row 18 of {file}: the right id p77 is not in {sides.right}: add these texts to the "
        "index, or leave the rows out"
    )


@pytest.fixture
def machines() -> Iterator[Any]:
    """A cluster of two nodes of one core, each with processes of its own, as two machines have."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def command(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dipair_index", "match", *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_machine_that_is_lost_is_done_without(
    machines: Any, sides: Any, pairs: Path, bytes_in: BytesIn, tmp_path: Path
) -> None:
    out, plain = tmp_path / "ray", tmp_path / "plain"
    running = command(
        sides.left, sides.right, "--pairs", pairs, "--block-size", "2", "--engine", "ray",
        "--out", out, "--json", RAY_ADDRESS=machines.address,
    )  # fmt: skip
    while not list(out.glob("scores-*")):
        assert running.poll() is None
        time.sleep(0.01)
    (worker,) = machines.worker_nodes
    machines.remove_node(worker, allow_graceful=False)
    said, remarks = running.communicate(timeout=180)
    assert running.returncode == 0, remarks
    assert json.loads(said)["scored"] == 200
    match_indexes(sides.left, sides.right, plain, pairs=pairs, block_pairs=2)
    assert bytes_in(out) == bytes_in(plain)


@pytest.mark.slow
def test_an_address_without_a_cluster_is_named(sides: Any, tmp_path: Path) -> None:
    running = command(
        sides.left, sides.right, "--all", "--engine", "ray", "--out", tmp_path / "out",
        RAY_ADDRESS="127.0.0.1:1", RAY_NUM_REDIS_GET_RETRIES="1",
    )  # fmt: skip
    said, remarks = running.communicate(timeout=180)
    assert (running.returncode, said) == (1, "")
    assert "Error: there is no Ray cluster at RAY_ADDRESS=127.0.0.1:1 (" in remarks
    assert "Traceback" not in remarks
