"""The ONNX graphs in a model's folder, and the record of what they were made from.

    query.onnx, passage.onnx, head.onnx   graphs; their weights are the model's own files
    passage.int8.onnx                     where these are int8: the same, multiplying in int8
    onnx.json                             sizes, the model's fingerprint, a digest of every file

The graphs say where in the safetensors files a weight lies, so weights are stored once. They are
used only while every file has the digest that it had when they were made.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from dipair_index.errors import ModelError
from dipair_index.files import write_whole
from dipair_index.models.systems import Sizes

RECORD = "onnx.json"
QUERY, PASSAGE, HEAD = "query.onnx", "passage.onnx", "head.onnx"
PASSAGE_INT8 = "passage.int8.onnx"
FORMAT = 1


class OnnxRecord(NamedTuple):
    """The content of onnx.json."""

    fingerprint: str  # of the model, as torch computes it
    sizes: Sizes
    query_length: int
    passage_length: int
    padding: int  # the id of the token that fills up
    query_prefix: str
    passage_prefix: str
    files: dict[str, str]  # SHA-256 by name
    clusters: bool = False  # whether a passage's tokens are still to be pooled

    def write(self, folder: Path) -> None:
        """Writes the record atomically."""
        content = {"format": FORMAT, **self._asdict(), "sizes": self.sizes._asdict()}
        data = f"{json.dumps(content, indent=2)}\n".encode()
        write_whole(folder / RECORD, data, together=True)

    @classmethod
    def read(cls, folder: Path) -> OnnxRecord:
        """Reads the record. Raises `ModelError` if it is missing or of an unknown format."""
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**{**content, "sizes": Sizes(**content["sizes"])})
        except FileNotFoundError as error:
            raise ModelError(f"{folder} holds no ONNX graphs: {_how_to_make(folder)}") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{folder / RECORD} cannot be read ({error}): {_how_to_make(folder)}"
            ) from error


class Graphs(NamedTuple):
    """The graphs of a model that was opened; each is loaded when it is first used."""

    folder: Path
    record: OnnxRecord
    stamps: list[tuple[int, ...]]  # a file each

    @classmethod
    def of(cls, folder: Path, record: OnnxRecord) -> Graphs:
        """The graphs in the folder as they are now."""
        return cls(folder, record, _stamps(folder, record))

    def session(self, name: str) -> Any:
        """An onnxruntime session of the graph, as `open_session` makes it."""
        session = open_session(self.folder / name)
        self.refuse_replaced()
        return session

    def refuse_replaced(self) -> None:
        """Raises `ModelError` if files were replaced since they were opened."""
        if _stamps(self.folder, self.record) != self.stamps:
            raise ModelError(
                f"the model in {self.folder} was replaced since it was opened: open it again"
            )


def open_graphs(folder: Path) -> Graphs:
    """Opens the graphs of a model. Raises `ModelError` if they do not match its weights.

    All files are read and hashed, 30 ms for 40 MB, while ONNX Runtime is imported: their sizes
    and times alone would not show that another training has written weights of the same shapes.
    """
    record = OnnxRecord.read(folder)
    graphs = Graphs.of(folder, record)
    with ThreadPoolExecutor() as pool:
        known = pool.map(lambda name: _digest(folder / name), record.files)
        import onnxruntime  # noqa: F401

        changed = [
            name
            for (name, digest), now in zip(record.files.items(), known, strict=True)
            if digest != now
        ]
    if changed:
        raise ModelError(
            f"the ONNX graphs in {folder} were made from another {', '.join(changed)}: "
            f"{_how_to_make(folder)}"
        )
    return graphs


def open_session(graph: Path) -> Any:
    """Returns an onnxruntime session that computes in the thread that calls it.

    Several threads may run it at once. Raises `ModelError` if the graph cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # more work at a time is had by more runs at a time, which never wait for each other
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # widens the weights once, at the load; the graphs hold the fused operations already
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_mem_pattern = False  # of no use where every batch has another length
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # its errors are RuntimeErrors and ValueErrors of many names, without a base of their own
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {graph} ({error}): "
            f"{_how_to_make(graph.parent)}, or choose --backend torch"
        ) from error


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of each file in the folder, by name."""
    return {name: _digest(folder / name) for name in names}


def _stamps(folder: Path, record: OnnxRecord) -> list[tuple[int, ...]]:
    """Inode, size and time of each file, which differ if it was replaced; empty if missing."""
    found: list[tuple[int, ...]] = []
    for name in record.files:
        try:
            status = (folder / name).stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(())
    return found


def _digest(path: Path) -> str:
    """The SHA-256 of a file; empty if there is none."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return hashlib.sha256(data).hexdigest()
    except (OSError, ValueError):  # an empty file cannot be mapped
        return ""


def _how_to_make(folder: Path) -> str:
    return f"run `dipair-index export onnx --model {folder}`"
