"""Search by words: BM25 over the passages' full texts, by tantivy.

    parts/000001/lexical/   tantivy's segments of one part, and their meta.json

BM25 weighs a word by the number of passages that have it, and a passage by the mean length, over
the whole index. Tantivy takes both from all segments that one meta.json names. So a reader joins
the segments of all parts, by links in a folder of its own, and the scores are those of one index of
all passages. Deleted passages are left out of the results, but count in these figures until
compaction, as in Lucene.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dipair_index.errors import StoreError
from dipair_index.optional import require
from dipair_index.records import Passage
from dipair_index.stores.wanted_rows import Accepts
from dipair_index.words import reason

if TYPE_CHECKING:
    import tantivy

_ANALYSER = "dipair-1"
"""The name in meta.json of how texts become words; another way of doing so needs another name."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+"
"""A run of letters and digits; scripts without spaces between words give a word a character."""
_LONGEST_WORD = 60  # bytes; what is longer is hardly a word
_HEAP_BYTES = 64_000_000
_META = "meta.json"


class LexicalPart(NamedTuple):
    """A part to search: the folder that `build_lexical` wrote, its ids and the deleted ones."""

    folder: Path
    ids: Sequence[str]
    deleted: Collection[str]


def check_lexical() -> None:
    """Raises `MissingPackageError` if tantivy is not installed."""
    require("lexical", "a search by words")


def build_lexical(folder: Path, batches: Iterable[Sequence[Passage]]) -> None:
    """Indexes the words of a part's passages, which come in the order of its ids, in `folder`.

    What is in the folder is removed first. Raises `StoreError` if it cannot be written.
    """
    import tantivy

    scratch = folder.with_name(f"{folder.name}.building")
    for path in (folder, scratch):
        shutil.rmtree(path, ignore_errors=True)
    with _tantivy_errors(f"cannot write {folder}"), _brief(scratch):
        scratch.mkdir()
        index = tantivy.Index(_schema(), path=str(scratch))
        index.register_tokenizer(_ANALYSER, _analyser())
        writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        for row, passage in enumerate(chain.from_iterable(batches)):
            document = tantivy.Document()
            document.add_text("text", passage.full_text)
            document.add_unsigned("row", row)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        folder.mkdir()
        # neither locks, nor segments that were merged
        for name in (_META, *_segment_files(scratch)):
            os.rename(scratch / name, folder / name)


class LexicalIndex:
    """The words of all live passages in `parts`; threads may share it.

    Raises `MissingPackageError` if tantivy is not installed, and `StoreError` if a file is missing
    or cannot be read.
    """

    def __init__(self, parts: Sequence[LexicalPart]) -> None:
        check_lexical()
        import tantivy

        self._parts = parts
        self._analyser = _analyser()
        self._schema = _schema()
        self._part_of_segment: list[int] = []
        if not parts:
            return
        segments: list[dict[str, Any]] = []
        with (
            _tantivy_errors("the index of words cannot be opened"),
            _brief(Path(mkdtemp(prefix="dipair-lexical-"))) as joined,
        ):
            for number, part in enumerate(parts):
                meta = json.loads((part.folder / _META).read_bytes())
                segments += meta["segments"]
                self._part_of_segment += [number] * len(meta["segments"])
                for name in _segment_files(part.folder):
                    os.symlink((part.folder / name).absolute(), joined / name)
            (joined / _META).write_text(json.dumps({**meta, "segments": segments}))
            index = tantivy.Index.open(str(joined))
            index.config_reader(reload_policy="manual")
            index.reload()
            self._searcher = index.searcher()

    def search(
        self, query: str, top_k: int, accepts: Accepts | None = None
    ) -> list[tuple[str, float]]:
        """Returns the `top_k` live passages with the highest BM25, and it; best first, ties by id.

        Passages without any word of the query are left out, and those that `accepts` refuses.
        """
        import tantivy

        words = self._analyser.analyze(query)
        if not words or not len(self):
            return []
        terms = (tantivy.Query.term_query(self._schema, "text", word) for word in words)
        asked = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
        limit = top_k + 1
        while True:
            hits = self._searcher.search(asked, limit=limit, count=False).hits
            live = self._live(hits)
            if accepts is not None:
                kept = accepts([passage_id for passage_id, _ in live])
                live = list(compress(live, kept))
            # what is cut off may be as good as the last one, and before it by id
            if len(hits) < limit or (len(live) > top_k and live[top_k - 1][1] > hits[-1][0]):
                return sorted(live, key=lambda found: (-found[1], found[0]))[:top_k]
            limit = min(4 * limit, len(self) + 1)  # one more than there can be

    def _live(self, hits: Sequence[tuple[float, tantivy.DocAddress]]) -> list[tuple[str, float]]:
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        found = []
        for (score, address), row in zip(hits, rows, strict=True):
            part = self._parts[self._part_of_segment[address.segment_ord]]
            if (passage_id := part.ids[cast(int, row)]) not in part.deleted:
                found.append((passage_id, score))
        return found

    def __len__(self) -> int:
        """Counts passages, deleted ones too."""
        return int(self._searcher.num_docs) if self._parts else 0


def _schema() -> tantivy.Schema:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", tokenizer_name=_ANALYSER, index_option="freq")
    builder.add_unsigned_field("row", fast=True)
    return builder.build()


def _analyser() -> tantivy.TextAnalyzer:
    """Words in lower case without their English endings; other languages keep theirs."""
    from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

    words = TextAnalyzerBuilder(Tokenizer.regex(_WORD)).filter(Filter.remove_long(_LONGEST_WORD))
    return words.filter(Filter.lowercase()).filter(Filter.stemmer("english")).build()


def _segment_files(folder: Path) -> list[str]:
    """Returns the names of the files of the segments that meta.json names."""
    segments = json.loads((folder / _META).read_bytes())["segments"]
    ids = {segment["segment_id"].replace("-", "") for segment in segments}
    return [path.name for path in folder.iterdir() if path.name.partition(".")[0] in ids]


@contextmanager
def _brief(folder: Path) -> Iterator[Path]:
    """Removes a folder after the block; what was opened in it stays readable without its name."""
    try:
        yield folder
    finally:
        for _ in range(100):  # a thread of tantivy may add a lock file meanwhile, once
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break


@contextmanager
def _tantivy_errors(what: str) -> Iterator[None]:
    """Raises errors of tantivy, which are a ValueError each, and of the disk as `StoreError`."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        raise StoreError(
            f"{what} ({reason(error)}): make room if the disk is full, restore the index from a "
            "copy, or build it again with --overwrite"
        ) from error
