"""MTEB: its search protocol, by which DiPair is measured on tasks of retrieval and reranking.

Needs mteb, the extra `[mteb]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.open import open_encoder
from dipair_index.errors import SettingsError
from dipair_index.models.licences import Licence, licence_of
from dipair_index.models.sources import model_folder
from dipair_index.optional import require

require("mteb", "dipair_index.rerank.toolkits.mteb")

from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction
from mteb.types import Licenses

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.toolkits.raw_scores import with_raw_scores

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import (
        CorpusDatasetType,
        QueryDatasetType,
        RetrievalOutputType,
        TopRankedDocumentsType,
    )


class DiPairSearch:
    """Builds an index of each task's corpus and searches it, for `mteb.evaluate`.

    Scores are logits. A query's instruction, if the task has any, follows its text, as in MTEB.

    Parameters
    ----------
    model : str, Path or encoder, optional
        A DiPair model by folder or hub name, or as `open_encoder` opened it. The default is the
        one in the package.
    candidates : int
        The number of passages that the head scores, and the most that are returned for a query,
        however many a task asks for.
    build_settings, search_settings : dict, optional
        Further arguments of `DiPairIndex.build` and `DiPairIndex.search`.
    folder : str or Path, optional
        Where the index of a task stays until the next one; by default, where temporary files are.
    meta : ModelMeta, optional
        What MTEB writes about the model; by default, what the encoder tells about itself.

    Raises
    ------
    ModelError
        If there is no such model.
    """

    def __init__(
        self,
        model: str | Path | TextEncoder | None = None,
        *,
        candidates: int = 100,
        build_settings: Mapping[str, Any] | None = None,
        search_settings: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        meta: ModelMeta | None = None,
    ) -> None:
        named = model is None or isinstance(model, (str, Path))
        self._encoder: TextEncoder = open_encoder(model) if named else model  # type: ignore[arg-type,assignment]
        self.candidates = candidates
        self.build_settings = build_settings or {}
        self.search_settings = with_raw_scores(search_settings or {})
        self._folder = TemporaryDirectory(dir=folder, prefix="mteb-")
        self._index: DiPairIndex | None = None
        self.mteb_model_meta = meta or model_meta(self._encoder)

    def index(
        self, corpus: CorpusDatasetType, *, task_metadata: TaskMetadata, **settings: Any
    ) -> None:
        """Builds the index of a corpus in place of the one before.

        Raises `SettingsError` if the corpus has no texts.
        """
        _check_texts("corpus", corpus, task_metadata)
        if self._index is not None:
            self._index.close()
        passages = ((row["id"], row["text"], row.get("title") or "") for row in corpus)
        self._index = DiPairIndex.build(
            passages,
            Path(self._folder.name) / "task.index",
            model=self._encoder,
            **{"overwrite": True, **self.build_settings},
        )

    def search(
        self,
        queries: QueryDatasetType,
        *,
        task_metadata: TaskMetadata,
        top_k: int,
        top_ranked: TopRankedDocumentsType | None = None,
        **settings: Any,
    ) -> RetrievalOutputType:
        """Returns the score of each passage that is found, by query and passage id.

        With `top_ranked`, ids by query id, these passages are reranked instead. Raises
        `SettingsError` if there is no index yet, or if the queries have no texts.
        """
        if self._index is None:
            raise SettingsError("there is nothing to search yet: call index with a corpus first")
        _check_texts("queries", queries, task_metadata)
        rows = list(queries)
        texts = [" ".join(filter(None, (row["text"], row.get("instruction")))) for row in rows]
        if top_ranked is None:
            count = min(top_k, self.candidates)
            found = self._index.search(texts, count, self.candidates, **self.search_settings)
        else:
            given = [top_ranked[row["id"]] for row in rows]
            found = self._index.rerank(texts, given, top_k, raw_scores=True)
        return {
            row["id"]: {passage.id: passage.score for passage in ranking}
            for row, ranking in zip(rows, found, strict=True)
        }


def model_meta(encoder: TextEncoder) -> ModelMeta:
    """Returns what an encoder tells about its model, as MTEB's metadata.

    The revision is the digest of the weights. What an encoder does not know is None.
    """
    name = encoder.name
    licence = licence_of(model_folder(name))
    if "/" not in name or Path(name).is_dir():
        name = f"dipair-index/{Path(name).name}"
    return ModelMeta(
        loader=None,
        name=name,
        revision=encoder.fingerprint,
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=encoder.sizes.dim,
        license=_known(licence),
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["ONNX" if encoder.backend == "onnx" else "PyTorch"],
        similarity_fn_name=ScoringFunction.CUSTOM,
        use_instructions=False,
        training_datasets=None,
        model_type=["late-interaction"],
    )


def _known(licence: Licence | None) -> str | None:
    """Returns the name of a licence if MTEB has it, too, and otherwise the link to its text."""
    if licence is None:
        return None
    return licence.name if licence.name in get_args(Licenses) else licence.link


def _check_texts(what: str, dataset: CorpusDatasetType, task: TaskMetadata) -> None:
    """Raises `SettingsError`, which names the task, if the rows are not texts."""
    if getattr(dataset.features.get("text"), "dtype", None) not in ("string", "large_string"):
        raise SettingsError(
            f"DiPair reads texts, and {task.name} has others in its {what}: choose tasks "
            "of written queries and passages"
        )
