"""Commands on a small corpus and the tiny model, which stands in for the one in the package."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dipair_index.cli import cli

CORPUS = (
    "p1\thow bees dance in the winter\n"
    "p2\tthe queen of the bees\n"
    "p3\twhy does dough rise: yeast and heat\n"
    "p4\tbread is dough and heat\n"
    "p5\tthe moon and the tide\n"
    "p6\tgravity of the sun\n"
)


def _run(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    """Runs the command as `main` does, errors shown as a user sees them."""
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    # buffered, as the real standard input is
    given = io.BufferedReader(io.BytesIO(data))
    result = CliRunner().invoke(cli, list(map(str, arguments)), input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def _digest(folder: Path) -> str:
    """Changes when any file or folder below does."""
    hashed = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        hashed.update(str(path.relative_to(folder)).encode())
        # LMDB counts its readers in one lock file, and a writer signs the other
        if path.is_file() and path.name not in ("lock.mdb", "writer.lock"):
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    return _run


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], str]:
    return _digest


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.tsv"
    path.write_text(CORPUS)
    return path


@pytest.fixture
def tiny_package(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model and this corpus in place of the model and the sample in the package."""
    sample = tmp_path_factory.mktemp("sample")
    (sample / "collection.tsv").write_text(CORPUS)
    monkeypatch.setattr("dipair_index.models.packaged.default_model_folder", lambda: tiny_model_dir)
    monkeypatch.setattr("dipair_index.formats.msmarco.sample_folder", lambda: sample)


@pytest.fixture(scope="session")
def built_index(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("built")
    (folder / "corpus.tsv").write_text(CORPUS)
    index = folder / "tiny.index"
    result = _run("build", "--corpus", folder / "corpus.tsv", "--index-dir", index,
                 "--model", tiny_model_dir)  # fmt: skip
    assert result.exit_code == 0, result.output
    return index
