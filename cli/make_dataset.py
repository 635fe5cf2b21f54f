"""`dipair-index make-dataset`: from judged queries to pairs for training and measuring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipair_index.cli.console import progress, remark, table
from dipair_index.cli.torch_device import prepare_torch

if TYPE_CHECKING:
    from dipair_index.msmarco import MsMarcoFiles
    from dipair_index.neighbours import Key
    from dipair_index.records import FloatArray
    from dipair_index.stores.ann import FaissIndex

DEFAULT_DATASET = Path("dipair.dataset")


@click.group()
def make_dataset() -> None:
    """Make a dataset of judged, mined and unlabelled pairs.

    \b
    Example:
      dipair-index make-dataset msmarco --sample
    """


@make_dataset.command()
@click.option(
    "--from-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Read collection.tsv, queries.train.tsv, qrels.train.tsv (dev likewise; .gz too) here",
)
@click.option("--sample", is_flag=True, help="Use the sample that comes with dipair-index")
@click.option(
    "--download-dir",
    type=click.Path(path_type=Path),
    default=Path("msmarco"),
    show_default=True,
    metavar="DIR",
    help="Keep the download here, when neither --from-dir nor --sample is given",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_DATASET,
    show_default=True,
    metavar="DIR",
    help="Write the dataset into this directory",
)
@click.option(
    "--vectors",
    default="use",
    show_default=True,
    metavar="use|model|NAME",
    help="Find neighbours with USE, DiPair's own vectors, or a transformers encoder",
)
@click.option(
    "--ann",
    default="flat",
    show_default=True,
    metavar="flat|hnsw|ivf|FACTORY",
    help="Search vectors with this kind of FAISS index",
)
@click.option(
    "--ann-from",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take over the FAISS index of this index or dataset directory",
)
@click.option(
    "--max-score",
    type=float,
    help="Draw negatives that score below this  [default: 0.53 with --vectors use]",
)
@click.option(
    "--max-score-percentile",
    type=float,
    metavar="P",
    help="Draw negatives from the lowest P percent of the retrieved candidates  "
    "[default: 92 with other vectors, the share of USE's that is below 0.53]",
)
@click.option(
    "--top-k-negatives",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Draw negatives from this many nearest passages",
)
@click.option(
    "--transfer-top-k",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Put this many nearest passages a query into the transfer set",
)
@click.option(
    "--unlabelled-queries",
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Add these queries to the transfer set; may be given again",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draw with this seed"
)
@click.option("--device", default="cpu", show_default=True, help="Embed on this torch device")
@click.option("--overwrite", is_flag=True, help="Replace a dataset that exists")
@click.option("--json", "as_json", is_flag=True, help="Print dataset.json instead of a table")
def msmarco(
    from_dir: Path | None,
    sample: bool,
    download_dir: Path,
    out: Path,
    vectors: str,
    ann: str,
    ann_from: Path | None,
    max_score: float | None,
    max_score_percentile: float | None,
    top_k_negatives: int,
    transfer_top_k: int,
    unlabelled_queries: tuple[Path, ...],
    seed: int,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make the Q2P-MAT dataset from MS MARCO passage ranking.

    Positives are the judged pairs, negatives are mined near each query below a score, and the
    transfer set holds the nearest passages of every train and unlabelled query. With nothing
    added, MS MARCO is downloaded first (1.1 GB). An interrupted run goes on where it was, and
    with --overwrite another threshold uses the vectors that are there.

    \b
    Example:
      dipair-index make-dataset msmarco --sample
      dipair-index make-dataset msmarco --from-dir ~/msmarco --max-score-percentile 40
    """
    if from_dir and sample:
        raise click.UsageError("give --from-dir or --sample, not both")
    from dipair_index.dataset import DatasetSettings, build_dataset
    from dipair_index.dataset_directory import begin, check_target, finish
    from dipair_index.sentence_vectors import open_embedder

    settings = DatasetSettings(
        max_score, max_score_percentile, top_k_negatives, transfer_top_k, seed
    )
    check_target(out, overwrite=overwrite)
    files = _files(from_dir, sample, download_dir)
    if vectors != "use":
        prepare_torch(device)
    embedder = open_embedder(vectors, device=device)
    building = begin(out, overwrite=overwrite)
    index = FaissFolder(building.ann, ann, previous=out / "ann", taken_from=ann_from)
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
        remark(f"{embedder.truncated:,} texts are longer than {vectors} reads and were cut")
    _show(record, out, as_json=as_json)


class FaissFolder:
    """The dataset's FAISS index: the one that is there, one taken over, or a new one."""

    def __init__(self, folder: Path, kind: str, *, previous: Path, taken_from: Path | None) -> None:
        from dipair_index.stores.ann import AnnInfo

        self._folder = folder
        self._elsewhere = previous
        self._taken_from = None
        self.kind = kind
        if taken_from:
            self._taken_from = taken_from / "ann" if (taken_from / "ann").is_dir() else taken_from
            self.kind = AnnInfo.read(self._taken_from).kind

    def take_over(self, key: Key) -> bool:
        """Links an index of these passages and this embedder into the folder, if there is one.

        Raises `IndexDirectoryError` where the one of --ann-from is not.
        """
        from dipair_index.dataset_directory import link
        from dipair_index.errors import IndexDirectoryError

        for folder in (self._folder, self._taken_from or self._elsewhere):
            if why := self._difference(folder, key):
                if folder == self._taken_from:
                    raise IndexDirectoryError(
                        f"{folder} cannot be taken over ({why}): leave --ann-from away, or give "
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
        from dipair_index.stores.ann import FaissIndex, VectorSource

        shutil.rmtree(self._folder, ignore_errors=True)
        index = FaissIndex.build(ids, vectors, kind=self.kind, source=VectorSource(**key))
        index.save(self._folder)

    def open(self) -> FaissIndex:
        """Loads the index."""
        from dipair_index.stores.ann import FaissIndex

        return FaissIndex.load(self._folder)

    def _difference(self, folder: Path, key: Key) -> str:
        """Why the index in the folder is not the one that is wanted; empty where it is."""
        from dipair_index.errors import IndexDirectoryError
        from dipair_index.stores.ann import AnnInfo

        try:
            info = AnnInfo.read(folder)
        except IndexDirectoryError as error:
            return str(error)
        if info.source.embedder_fingerprint != key["embedder_fingerprint"]:
            return f"its vectors are those of {info.source.embedder}, not of {key['embedder']}"
        if info.source.passages_digest != key["passages_digest"]:
            return f"it holds other passages, {info.count:,} in number"
        return "" if info.kind == self.kind else f"it is {info.kind}, not {self.kind}"


def _files(from_dir: Path | None, sample: bool, download_dir: Path) -> MsMarcoFiles:
    from dipair_index.msmarco import MsMarcoFiles, download_msmarco, sample_folder

    if sample:
        return MsMarcoFiles.find(sample_folder())
    if from_dir:
        return MsMarcoFiles.find(from_dir)
    with progress(f"downloading MS MARCO to {download_dir}", "bytes") as report:
        return download_msmarco(download_dir, report)


def _show(record: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Prints the counts as DiPair's table 1 does, and says on stderr what they rest on."""
    rows = []
    for split in ("transfer", "train", "valid", "test"):
        counts = record["table"][split]
        if counts.get("negatives_missing"):
            remark(
                f"{split}: {counts['negatives_missing']:,} negatives fewer than positives, since "
                "too few candidates score below the threshold: raise --max-score or "
                "--top-k-negatives"
            )
        names = ("pairs", "positives", "queries", "mean_passage_words", "mean_query_words")
        rows.append([split, *(_cell(counts.get(name)) for name in (*names, "miner_auc"))])
    if as_json:
        click.echo(json.dumps(record, indent=2, sort_keys=True))
    else:
        columns = ["set", "pairs", "positives", "queries", "words/passage", "words/query", "AUC"]
        table([*columns[:6], "miner AUC"], rows, numbers=[*columns[1:6], "miner AUC"])
    threshold = record["parameters"]["max_score"]
    share = record["table"]["train"]["share_below_threshold"] or 0
    below = "of any score" if threshold is None else f"below {threshold:.4f} ({share:.1%} are)"
    remark(f"negatives: drawn from neighbours {below}")
    remark(f"wrote {out}")


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:,}"
