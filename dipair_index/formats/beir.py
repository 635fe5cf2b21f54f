"""A folder in BEIR's layout: corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from dipair_index.errors import FormatError
from dipair_index.formats.collections import read_passages, read_queries
from dipair_index.formats.judged_files import find_file, read_known_qrels
from dipair_index.formats.trec import iter_qrels
from dipair_index.records import Passage, Qrels, Query

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class BeirFiles:
    """The files of a BEIR folder, compressed with gzip or not."""

    folder: Path
    qrels: dict[str, Path]  # by split

    @classmethod
    def find(cls, folder: Path) -> BeirFiles:
        """Looks for the files in `folder`; qrels of dev and test may be missing.

        Raises `FormatError` if files are missing, naming all of them.
        """
        if not folder.is_dir():
            raise FormatError(f"there is no folder {folder}: check the path")
        found = {split: find_file(folder / "qrels", f"{split}.tsv") for split in SPLITS}
        missing = [
            name for name in ("corpus.jsonl", "queries.jsonl") if not find_file(folder, name)
        ]
        if not found["train"]:
            missing.append("qrels/train.tsv")
        if missing:
            raise FormatError(
                f"{folder} lacks {', '.join(missing)}: expected a BEIR folder that can be trained "
                "on, each file as it is or with .gz"
            )
        return cls(folder, {split: path for split, path in found.items() if path})

    @property
    def kind(self) -> str:
        """The name of the format in the record of a dataset."""
        return "beir"

    @property
    def train_qrels(self) -> Path:
        """The judgements to train on."""
        return self.qrels["train"]

    def iter_passages(self) -> Iterator[Passage]:
        """Yields the corpus."""
        return read_passages(self.folder)

    def read_queries(self) -> dict[str, list[Query]]:
        """The judged queries of each split; those that no file judges are left out.

        Those may belong to a test set with secret judgements. Raises `FormatError` if a query is
        judged in two splits.
        """
        split_of: dict[str, str] = {}
        for split, path in self.qrels.items():
            for judgement in iter_qrels(path):
                if split_of.setdefault(judgement.query_id, split) != split:
                    raise FormatError(
                        f"{judgement.where}: query {judgement.query_id} is judged in "
                        f"{self.qrels[split_of[judgement.query_id]]} too: give every query to one "
                        "split"
                    )
        queries: dict[str, list[Query]] = {split: [] for split in SPLITS}
        for query in read_queries(self.folder):
            if query.query_id in split_of:
                queries[split_of[query.query_id]].append(query)
        return queries

    def read_qrels(self, queries: dict[str, list[Query]], passage_ids: Container[str]) -> Qrels:
        """Judgements of all splits, each of a known query and a known passage."""
        qrels: Qrels = {}
        for split, path in self.qrels.items():
            known = {query.query_id for query in queries[split]}
            corpus = self.folder / "corpus.jsonl"
            qrels.update(read_known_qrels(path, known, split, passage_ids, corpus))
        return qrels
