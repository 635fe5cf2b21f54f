import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dipair_index.errors import DownloadError, FormatError, WriteError
from dipair_index.formats.downloads import RemoteFile, fetch
from dipair_index.formats.msmarco import ARCHIVE, MsMarcoFiles, download_msmarco, sample_folder

FILES = {
    "collection.tsv": "p1\tTea is hot.\np2\tIce is cold.\n",
    "queries.train.tsv": "q1\tis tea hot\n",
    "qrels.train.tsv": "q1\t0\tp1\t1\n",
    "queries.dev.small.tsv": "q2\tis ice cold\n",
    "qrels.dev.small.tsv": "q2\t0\tp2\t1\n",
}


def folder_with(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


# ==== The folder ====


def test_the_small_dev_set_goes_before_the_full_one(tmp_path: Path) -> None:
    more = {"queries.dev.tsv": "q2\tis ice cold\nq3\tx\n", "qrels.dev.tsv": "q3\t0\tp1\t1\n"}
    files = MsMarcoFiles.find(folder_with(tmp_path, FILES | more))
    queries = files.read_queries()
    assert [query.query_id for query in queries["dev"]] == ["q2"]
    assert files.read_qrels(queries, {"p1", "p2"}) == {"q1": {"p1": 1}, "q2": {"p2": 1}}


def test_the_archive_as_published_is_read_with_its_small_dev_set(tmp_path: Path) -> None:
    # it holds queries.dev.tsv for all dev queries, and no qrels.dev.tsv
    files = MsMarcoFiles.find(folder_with(tmp_path, FILES | {"queries.dev.tsv": "q9\tx\n"}))
    assert files.dev_queries == tmp_path / "queries.dev.small.tsv"


def test_compressed_files_and_a_missing_dev_set_will_do(tmp_path: Path) -> None:
    train = {f"{name}.gz": text for name, text in FILES.items() if "dev" not in name}
    files = MsMarcoFiles.find(folder_with(tmp_path, train))
    assert files.dev_qrels is None
    assert [passage.passage_id for passage in files.iter_passages()] == ["p1", "p2"]
    assert files.read_queries()["dev"] == []


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    folder_with(tmp_path, {"queries.train.tsv": "q\tx\n"})
    with pytest.raises(FormatError, match=r"lacks collection.tsv, qrels.train.tsv: expected MS"):
        MsMarcoFiles.find(tmp_path)
    with pytest.raises(FormatError, match=r"there is no folder .*nowhere: check the path"):
        MsMarcoFiles.find(tmp_path / "nowhere")


def test_dev_queries_without_their_qrels_are_refused(tmp_path: Path) -> None:
    files = {name: text for name, text in FILES.items() if name != "qrels.dev.small.tsv"}
    with pytest.raises(FormatError, match=r"queries.dev.small.tsv without qrels.dev.small.tsv"):
        MsMarcoFiles.find(folder_with(tmp_path, files))


def test_a_judgement_of_an_unknown_passage_names_line_and_ids(tmp_path: Path) -> None:
    lines = "".join(f"q1\t0\tx{number}\t1\n" for number in range(7))
    files = MsMarcoFiles.find(
        folder_with(tmp_path, FILES | {"qrels.train.tsv": "q1\t0\tp1\t1\n" + lines})
    )
    message = r"line 2 of .*qrels.train.tsv: passages that .*: x0, x1, x2, x3, x4 and 2 more: take"
    with pytest.raises(FormatError, match=message):
        files.read_qrels(files.read_queries(), {"p1", "p2"})


def test_a_judgement_of_an_unknown_query_names_its_line(tmp_path: Path) -> None:
    files = MsMarcoFiles.find(
        folder_with(tmp_path, FILES | {"qrels.dev.small.tsv": "q2 0 p2 1\nq1 0 p2 1\n"})
    )
    with pytest.raises(
        FormatError, match=r"line 2 of .*qrels.dev.small.tsv: query q1 is not in the dev queries"
    ):
        files.read_qrels(files.read_queries(), {"p1", "p2"})


def test_a_query_in_two_splits_is_refused(tmp_path: Path) -> None:
    files = MsMarcoFiles.find(folder_with(tmp_path, FILES | {"queries.dev.small.tsv": "q1\tx\n"}))
    with pytest.raises(FormatError, match=r"query q1 is in .*queries.train.tsv and in .*dev.small"):
        files.read_queries()


def test_the_bundled_sample_is_whole_and_consistent() -> None:
    files = MsMarcoFiles.find(sample_folder())
    passages = {passage.passage_id for passage in files.iter_passages()}
    queries = files.read_queries()
    qrels = files.read_qrels(queries, passages)
    assert len(passages) >= 250
    assert len(queries["train"]) + len(queries["dev"]) >= 100
    assert {relevance for judged in qrels.values() for relevance in judged.values()} <= {0, 1, 2, 3}
    assert all(max(judged.values()) >= 1 for judged in qrels.values())


# ==== The download ====


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Mirror:
    """A local HTTP server; `breaks_after` closes the connection after so many bytes, once each."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.breaks_after: list[int] = []
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                mirror.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                if not mirror.knows_ranges:
                    start = 0
                body = mirror.content[start:]
                self.send_response(206 if mirror.knows_ranges else 200)
                self.send_header("Content-Length", str(len(body)))
                if mirror.knows_ranges:
                    end = len(mirror.content)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
                self.end_headers()
                cut = mirror.breaks_after.pop(0) if mirror.breaks_after else len(body)
                self.wfile.write(body[:cut])
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def content() -> bytes:
    return bytes(range(256)) * 20_000  # 5 MB: several chunks


@pytest.fixture
def mirror(content: bytes) -> Iterator[Mirror]:
    server = Mirror(content)
    yield server
    server.close()


def remote(content: bytes, *urls: str) -> RemoteFile:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return RemoteFile("file.bin", len(content), digest, urls)


@pytest.fixture
def dead() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{server.server_address[1]}/file"
    server.server_close()
    return url


def test_a_broken_connection_is_gone_on_with(tmp_path: Path, mirror: Mirror, content) -> None:
    mirror.breaks_after = [1_500_000, 700_000]
    counts: list[int] = []
    path = fetch(remote(content, mirror.url), tmp_path, counts.append)
    assert path.read_bytes() == content
    assert mirror.ranges == ["bytes=0-", "bytes=1500000-", "bytes=2200000-"]
    assert counts == sorted(counts)
    assert counts[-1] == len(content)
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_the_next_call_goes_on_where_an_interrupted_one_was(tmp_path, mirror, content) -> None:
    (tmp_path / "file.bin.part").write_bytes(content[:3_000_000])
    assert fetch(remote(content, mirror.url), tmp_path).read_bytes() == content
    assert mirror.ranges == ["bytes=3000000-"]
    fetch(remote(content, mirror.url), tmp_path)  # there already: nobody is asked
    assert len(mirror.ranges) == 1


def test_a_mirror_that_ignores_ranges_sends_all_again(tmp_path, mirror, content) -> None:
    mirror.knows_ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert fetch(remote(content, mirror.url), tmp_path).read_bytes() == content


def test_the_next_mirror_is_asked_when_one_is_dead(tmp_path, mirror, content, dead) -> None:
    assert fetch(remote(content, dead, mirror.url), tmp_path).read_bytes() == content


def test_a_wrong_checksum_leaves_nothing_and_asks_the_next_mirror(tmp_path, content) -> None:
    wrong, right = Mirror(content[::-1]), Mirror(content)
    try:
        with pytest.raises(DownloadError, match=r"sent a file with MD5 [0-9a-f]{32}, expected"):
            fetch(remote(content, wrong.url), tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert fetch(remote(content, wrong.url, right.url), tmp_path).read_bytes() == content
    finally:
        wrong.close()
        right.close()


def test_a_file_that_is_too_short_or_too_long_is_refused(tmp_path, content) -> None:
    for sent, message in ((content[:-1], r"ended after 5,119,999 of"), (content + b"x", "MD5")):
        server = Mirror(sent)
        try:
            with pytest.raises(DownloadError, match=message):
                fetch(remote(content, server.url), tmp_path)
        finally:
            server.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, mirror: Mirror, content) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"cannot write .*file.bin: Not a directory"):
        fetch(remote(content, mirror.url), tmp_path / "file" / "folder")


def packed(names: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return target.getvalue()


def test_the_archive_is_unpacked_without_trusting_its_paths(tmp_path: Path) -> None:
    inside = {f"../../{name}": text for name, text in FILES.items()} | {"/etc/evil.tsv": "x"}
    content = packed(inside)
    server = Mirror(content)
    try:
        archive = remote(content, server.url)
        folder = tmp_path / "a" / "b" / "msmarco"
        files = download_msmarco(folder, archive=archive)
        assert files == MsMarcoFiles.find(folder)
        assert {path.name for path in folder.iterdir()} == set(FILES)
        assert files.collection.read_text() == FILES["collection.tsv"]
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        asked = len(server.ranges)
        download_msmarco(folder, archive=archive)
        assert len(server.ranges) == asked
    finally:
        server.close()


def test_without_network_one_sentence_names_the_other_ways(tmp_path: Path, dead: str) -> None:
    with pytest.raises(DownloadError, match=r"127.0.0.1:\d+: .*--from-dir DIR .* --sample") as told:
        download_msmarco(tmp_path / "msmarco", archive=remote(b"x", dead))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "msmarco").exists()


def test_the_official_archive_has_a_checksum_and_mirrors() -> None:
    assert ARCHIVE.md5 == "31644046b18952c1386cd4564ba2ae69"
    assert len(ARCHIVE.mirrors) > 1
    assert all(url.startswith("https://") for url in ARCHIVE.mirrors)
