"""What the commands that mine a dataset share: options, the FAISS index and the table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipair_index.cli._console import print_json, progress, remark, table
from dipair_index.cli._dataset_option import new_dataset_options
from dipair_index.cli._options import Command, all_of, compute_options
from dipair_index.cli._types import COUNT, NUMBER
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.data.neighbours import Key
    from dipair_index.encoders.sentence_embedders import SentenceEmbedder
    from dipair_index.formats.judged_files import JudgedFiles
    from dipair_index.records import FloatArray
    from dipair_index.stores.ann import FaissIndex


def mining_options() -> Callable[[Command], Command]:
    """The options of neighbours, of negatives drawn from them, and of the new dataset."""
    return all_of(
        click.option(
            "--vectors",
            default="use",
            show_default=True,
            metavar="use|model|NAME",
            help="Find neighbours by vectors of USE, the bundled model, or a transformers encoder",
        ),
        click.option(
            "--ann",
            default="flat",
            show_default=True,
            metavar="flat|hnsw|ivf|FACTORY",
            help="Search the vectors with this kind of FAISS index",
        ),
        click.option(
            "--ann-from",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Reuse the FAISS index of this index or dataset directory",
        ),
        click.option(
            "--max-score",
            type=NUMBER,
            help="Draw negatives with a score below this  [default: 0.53 with --vectors use]",
        ),
        click.option(
            "--max-score-percentile",
            type=NUMBER,
            metavar="P",
            help="Draw negatives from the lowest P percent of the retrieved candidates  "
            "[default: 92 with other vectors: the share of USE's scores below 0.53]",
        ),
        click.option(
            "--top-k-negatives",
            type=COUNT,
            default=30,
            show_default=True,
            help="Draw negatives from this many nearest passages of each query",
        ),
        click.option(
            "--transfer-top-k",
            type=COUNT,
            default=50,
            show_default=True,
            help="Put this many nearest passages of each query into the transfer set",
        ),
        click.option(
            "--unlabelled-queries",
            type=click.Path(exists=True, allow_dash=True, path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Add the queries of this file to the transfer set; may be repeated",
        ),
        compute_options("Embed"),
        new_dataset_options(),
    )


def make_mined(
    files_of: Callable[[], JudgedFiles],
    *,
    vectors: str,
    ann: str,
    ann_from: Path | None,
    max_score: float | None,
    max_score_percentile: float | None,
    top_k_negatives: int,
    transfer_top_k: int,
    unlabelled_queries: tuple[Path, ...],
    device: str,
    out: Path,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Makes the dataset of `mining_options`; its files are found before texts are encoded."""
    from dipair_index.data.directory import begin, check_target, finish
    from dipair_index.data.mined_dataset import build_dataset
    from dipair_index.data.mining import DatasetSettings
    from dipair_index.encoders.sentence_embedders import open_embedder

    settings = DatasetSettings(
        max_score, max_score_percentile, top_k_negatives, transfer_top_k, seed
    )
    check_target(out, overwrite=overwrite)
    files = files_of()
    embedder = open_embedder(vectors, device=device)
    building = begin(out, overwrite=overwrite)
    index = FaissFolder(building.ann, ann, embedder, previous=out / "ann", taken_from=ann_from)
    record = build_dataset(
        files,
        building,
        embedder,
        index,
        settings,
        progress=progress,
        unlabelled=unlabelled_queries,
    )
    finish(building, out)
    if embedder.truncated:
        cut = counted(
            embedder.truncated,
            f"text is longer than {vectors} reads and was",
            f"texts are longer than {vectors} reads and were",
        )
        remark(f"{cut} truncated")
    _show(record, out, as_json=as_json)


class FaissFolder:
    """The dataset's FAISS index: an existing one, a reused one, or a new one."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        embedder: SentenceEmbedder,
        *,
        previous: Path,
        taken_from: Path | None,
    ) -> None:
        from dipair_index.stores.ann_info import AnnInfo

        self._folder = folder
        self._embedder = embedder
        self._elsewhere = previous
        self._taken_from = None
        self.kind = kind
        if taken_from:
            self._taken_from = taken_from / "ann" if (taken_from / "ann").is_dir() else taken_from
            self.kind = AnnInfo.read(self._taken_from).kind

    def reuse(self, key: Key) -> bool:
        """Links an index of these passages and this embedder into the folder, if there is one.

        Raises `DirectoryError` if the index of --ann-from is another.
        """
        from dipair_index.errors import DirectoryError
        from dipair_index.files import link

        for folder in (self._folder, self._taken_from or self._elsewhere):
            if why := self._difference(folder, key):
                if folder == self._taken_from:
                    raise DirectoryError(
                        f"{folder} cannot be reused ({why}): leave out --ann-from, or give "
                        "the --vectors and the collection that it was built with"
                    )
            else:
                if folder != self._folder:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    shutil.copytree(folder, self._folder, copy_function=link)
                return True
        return False

    def build(self, ids: Sequence[str], vectors: FloatArray, key: Key) -> None:
        """Makes the index and saves it."""
        from dipair_index.stores.ann import FaissIndex
        from dipair_index.stores.ann_info import VectorSource

        shutil.rmtree(self._folder, ignore_errors=True)
        index = FaissIndex.build(ids, vectors, kind=self.kind, source=VectorSource(**key))
        index.save(self._folder)

    def open(self) -> FaissIndex:
        """Loads the index."""
        from dipair_index.stores.ann import FaissIndex

        return FaissIndex.load(self._folder)

    def _difference(self, folder: Path, key: Key) -> str:
        """Why the index in the folder cannot be reused; empty if it can."""
        from dipair_index.encoders.sentence_embedders import made_by
        from dipair_index.errors import DirectoryError
        from dipair_index.stores.ann_info import AnnInfo

        try:
            info = AnnInfo.read(folder)
        except DirectoryError as error:
            return str(error)
        if not made_by(self._embedder, info.source.embedder_fingerprint):
            return f"its vectors are those of {info.source.embedder}, not of {key['embedder']}"
        if info.source.passages_digest != key["passages_digest"]:
            return f"it holds {counted(info.count, 'other passage')}"
        return "" if info.kind == self.kind else f"it is {info.kind}, not {self.kind}"


def _show(record: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Prints the counts in the layout of DiPair's table 1, and how they arose to stderr."""
    rows = []
    for split in ("transfer", "train", "valid", "test"):
        counts = record["table"][split]
        if counts.get("negatives_missing"):
            remark(
                f"{split}: {counted(counts['negatives_missing'], 'negative')} fewer than "
                "positives, since too few candidates score below the threshold: raise --max-score "
                "or --top-k-negatives"
            )
        names = ("pairs", "positives", "queries", "mean_passage_words", "mean_query_words")
        rows.append([split, *(_cell(counts.get(name)) for name in (*names, "miner_auc"))])
    if as_json:
        print_json(record, indent=2, sort_keys=True)
    else:
        columns = ["set", "pairs", "positives", "queries", "words/passage", "words/query", "AUC"]
        table([*columns[:6], "miner AUC"], rows, numbers=[*columns[1:6], "miner AUC"])
    for what, count in record["left_out"].items():
        if count:
            remark(f"left out, {what}: {count:,}")
    threshold = record["parameters"]["max_score"]
    share = record["table"]["train"]["share_below_threshold"] or 0
    below = "of any score" if threshold is None else f"below {threshold:.4f} ({share:.1%} are)"
    remark(f"negatives: drawn from neighbours {below}")
    remark(f"wrote {out}")


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:,}"
