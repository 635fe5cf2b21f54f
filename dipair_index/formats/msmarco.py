"""MS MARCO passage ranking: its folder, its download, and the bundled sample in its layout."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from dipair_index.errors import DownloadError, FormatError
from dipair_index.files import replacing
from dipair_index.formats.collections import read_passages, read_queries
from dipair_index.formats.downloads import RemoteFile, fetch
from dipair_index.formats.judged_files import find_file, read_known_qrels
from dipair_index.records import Passage, Qrels, Query
from dipair_index.words import counted

# Address, size and MD5 as in ir_datasets' definition of msmarco-passage; the second is the
# official address of before 2024, the third stands in Pyserini's guide to MS MARCO.
ARCHIVE = RemoteFile(
    name="collectionandqueries.tar.gz",
    size=1_057_717_952,
    md5="31644046b18952c1386cd4564ba2ae69",
    mirrors=(
        "https://msmarco.z22.web.core.windows.net/msmarcoranking/collectionandqueries.tar.gz",
        "https://msmarco.blob.core.windows.net/msmarcoranking/collectionandqueries.tar.gz",
        "https://www.dropbox.com/s/9f54jg2f71ray3b/collectionandqueries.tar.gz?dl=1",
    ),
)
TRAIN = ("collection.tsv", "queries.train.tsv", "qrels.train.tsv")
# The archive holds all dev queries, but judgements for the small set only: pairs stay together.
DEV_PAIRS = (
    ("queries.dev.small.tsv", "qrels.dev.small.tsv"),
    ("queries.dev.tsv", "qrels.dev.tsv"),
)


@dataclass(frozen=True)
class MsMarcoFiles:
    """The files of a folder in MS MARCO's layout, each `.tsv` or `.tsv.gz`."""

    collection: Path
    train_queries: Path
    train_qrels: Path
    dev_queries: Path | None = None
    dev_qrels: Path | None = None

    @classmethod
    def find(cls, folder: Path) -> MsMarcoFiles:
        """Looks for the files in `folder`; those of dev may be missing, both of them.

        Raises `FormatError` if files are missing, naming all of them.
        """
        if not folder.is_dir():
            raise FormatError(f"there is no folder {folder}: check the path")
        found = {name: find_file(folder, name) for name in TRAIN}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            raise FormatError(
                f"{folder} lacks {', '.join(missing)}: expected MS MARCO's files, "
                "each as .tsv or .tsv.gz"
            )
        collection, train_queries, train_qrels = (path for path in found.values() if path)
        dev: tuple[Path | None, Path | None] = (None, None)
        for pair in DEV_PAIRS:
            dev = (find_file(folder, pair[0]), find_file(folder, pair[1]))
            if all(dev):
                return cls(collection, train_queries, train_qrels, *dev)
        alone = [name for pair in DEV_PAIRS for name in pair if find_file(folder, name)]
        if alone:
            partners = dict([*DEV_PAIRS, *((second, first) for first, second in DEV_PAIRS)])
            raise FormatError(
                f"{folder} holds {alone[0]} without {partners[alone[0]]}: "
                "add the other file, or remove this one"
            )
        return cls(collection, train_queries, train_qrels)

    @property
    def kind(self) -> str:
        """The name of the format in the record of a dataset."""
        return "msmarco"

    def iter_passages(self) -> Iterator[Passage]:
        """Yields the collection."""
        return read_passages(self.collection)

    def read_queries(self) -> dict[str, list[Query]]:
        """Queries by "train" and "dev" ("dev" is empty without its files)."""
        train = list(read_queries(self.train_queries))
        dev = list(read_queries(self.dev_queries)) if self.dev_queries else []
        shared = {query.query_id for query in train} & {query.query_id for query in dev}
        if shared:
            raise FormatError(
                f"query {min(shared)} is in {self.train_queries} and in {self.dev_queries} "
                f"({counted(len(shared), 'such id')}): give every query to one split"
            )
        return {"train": train, "dev": dev}

    def read_qrels(self, queries: dict[str, list[Query]], passage_ids: Container[str]) -> Qrels:
        """Judgements of both splits, each of a known query and a known passage."""
        qrels: Qrels = {}
        for split, path in (("train", self.train_qrels), ("dev", self.dev_qrels)):
            if path is not None:
                known = {query.query_id for query in queries[split]}
                qrels.update(read_known_qrels(path, known, split, passage_ids, self.collection))
        return qrels


def sample_folder() -> Path:
    """The folder of the sample collection that comes with the package."""
    return Path(str(files("dipair_index"))) / "sample"


def download_msmarco(
    folder: Path,
    report: Callable[[int], None] = lambda count: None,
    *,
    archive: RemoteFile = ARCHIVE,
) -> MsMarcoFiles:
    """Returns the files in `folder`, downloaded and unpacked unless they are there.

    Reports the bytes that arrived. Raises `DownloadError` if no mirror answers.
    """
    wanted = {*TRAIN, *DEV_PAIRS[0]}
    if not all((folder / name).is_file() for name in wanted):
        try:
            packed = fetch(archive, folder, report)
        except DownloadError as error:
            raise DownloadError(
                f"{error}: pass --from-dir DIR with MS MARCO's files, or --sample for the sample "
                "that comes with dipair-index"
            ) from error
        _unpack(packed, folder, wanted)
        packed.unlink()
    return MsMarcoFiles.find(folder)


def _unpack(packed: Path, folder: Path, wanted: set[str]) -> None:
    missing = set(wanted)
    with tarfile.open(packed, "r|gz") as archive:
        for member in archive:
            # only the last part of the name counts, so that nothing lands outside the folder
            name = Path(member.name).name
            stream = archive.extractfile(member) if name in missing and member.isfile() else None
            if stream is not None:
                with replacing(folder / name) as unfinished, open(unfinished, "wb") as target:
                    shutil.copyfileobj(stream, target, 1 << 20)
                missing.discard(name)
    if missing:
        raise DownloadError(f"{packed} lacks {', '.join(sorted(missing))}: delete it and try again")
