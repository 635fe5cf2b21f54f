"""The command as a process: streams that are closed, full, or of another encoding; a terminal."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dipair_index.cli import cli
from dipair_index.cli._console import print_json, remark, say, write_data

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
COMMAND = f"{sys.executable} -c 'from dipair_index.cli import main; main()'"
HARMFUL = "bees \x1b[2J\x1b]0;title\x07 \x9b31m \u202edance\u2066 [bold]on[/bold] caf\u00e9"


def run(
    folder: Path, words: str, *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs `dipair-index` with words of a shell's command line."""
    done = subprocess.run(
        f"{COMMAND} {words}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        cwd=folder,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"Exception ignored" not in done.stderr, done.stderr.decode()
    return done


def on_terminal(folder: Path, words: str) -> str:
    """What a terminal gets that stands at stdout and stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        f"{COMMAND} {words}", shell=True, stdout=theirs, stderr=theirs, cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(ours)
    process.wait(timeout=120)
    return shown.decode("utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """An index of texts with other letters and control sequences, and a question for it."""
    path = tmp_path_factory.mktemp("streams")
    (path / "p.tsv").write_text(f"p1\t{HARMFUL}\nr\u00e9\t\u0394 and \u4e2d\n", encoding="utf-8")
    (path / "q.tsv").write_text("q1\thow bees dance\n")
    assert run(path, f"build --corpus p.tsv --index-dir i --model {tiny_model_dir}").returncode == 0
    return path


@pytest.mark.parametrize(
    "words",
    [
        "build --corpus - --index-dir new",
        "add --corpus - --index-dir i",
        "update --corpus - --index-dir i",
        "delete --ids - --index-dir i",
        "rerank --index-dir i --query -",
        "rerank --index-dir i --queries -",
        "rerank --index-dir i --queries q.tsv --run -",
        "bench --index-dir i --queries -",
        "score -",
        "make-dataset pairs - --out d",
        "evaluate --qrels - x.run",
    ],
)
def test_a_standard_input_that_is_closed_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.ClickException, match="^standard input is closed: send the data in"):
        cli.main(words.split(), standalone_mode=False)
    assert not (folder / "new").exists()
    assert not (folder / "d").exists()


def test_closed_and_full_streams_are_sentences(folder: Path) -> None:
    done = run(folder, "delete --ids - --index-dir i <&-")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Error: standard input is closed: send the data in, or give a file" in done.stderr
    for words in ("info --index-dir i", "rerank --index-dir i --queries q.tsv", "--version"):
        done = run(folder, f"{words} >&-")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.endswith(
            b"Error: standard output is closed: send it to a file, a pipe or /dev/null\n"
        )
    assert run(folder, "info --index-dir i >&- 2>&- <&-").returncode == 1
    if Path("/dev/full").exists():
        done = run(folder, "rerank --index-dir i --queries q.tsv --trec > /dev/full")
        assert done.returncode == 1
        expected = b"Error: cannot write to standard output: No space left on device\n"
        assert done.stderr.splitlines(keepends=True)[-1] == expected


def test_what_is_said_beside_the_data_may_be_lost(folder: Path) -> None:
    errors = "2>/dev/full" if Path("/dev/full").exists() else "2>&-"
    done = run(folder, f"rerank --index-dir i --queries q.tsv --trec {errors}")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    done = run(folder, "verify --index-dir i <&- >&- 2>&-")  # prints nothing where all is well
    assert done.returncode == 0


def test_files_do_not_get_the_descriptors_of_closed_streams(tmp_path: Path) -> None:
    program = (
        "from dipair_index.cli._streams import prepare_streams; prepare_streams(); "
        'import sys; file = open("data", "w"); file.write(str(file.fileno()))'
    )
    command = f"{sys.executable} -c '{program}' <&- >&- 2>&-"
    subprocess.run(command, shell=True, executable="/bin/bash", cwd=tmp_path, check=True)
    assert int((tmp_path / "data").read_text()) > 2


# ==== Encodings ====


def test_output_is_utf8_in_every_locale(folder: Path) -> None:
    words = "rerank --index-dir i --query caf\u00e9"
    answer = json.loads(run(folder, f"{words} --json", env=ASCII).stdout.decode("utf-8"))
    assert answer["query"] == "caf\u00e9"
    texts = {each["id"]: each["text"] for each in answer["results"]}
    assert texts == {"p1": HARMFUL, "r\u00e9": "\u0394 and \u4e2d"}
    table = run(folder, words, env=ASCII).stdout.decode("utf-8")
    assert "\tr\u00e9\t\u0394 and \u4e2d\n" in table
    trec = run(folder, "rerank --index-dir i --queries q.tsv --trec", env=ASCII).stdout
    assert {line.split()[2] for line in trec.decode("utf-8").splitlines()} == {"p1", "r\u00e9"}


@pytest.mark.parametrize(
    "words",
    [
        ["rerank", "--query", "caf\udce9"],
        ["delete", "caf\udce9"],
        ["score", "p.tsv", "--columns", "query,passage=caf\udce9"],
        ["make-dataset", "pairs", "p.tsv", "--columns", "query,passage,label=caf\udce9"],
        ["evaluate", "--measure", "caf\udce9"],
        ["evaluate", "--baseline", "caf\udce9"],
        ["train", "--query-prefix", "caf\udce9"],
        ["train", "--extra-side", "caf\udce9=4"],
    ],
)
def test_texts_that_are_not_utf8_are_refused(words: list[str]) -> None:
    with pytest.raises(click.BadParameter, match=r"'caf.*' is not UTF-8|caf.* is not UTF-8"):
        cli.main(words, standalone_mode=False)


def test_a_name_that_is_not_utf8_is_one_of_a_file(folder: Path) -> None:
    done = run(folder, "info --index-dir $'caf\\xe9'")
    assert done.returncode == 1
    assert b"there is no index at caf\\xe9: build one" in done.stderr


# ==== A terminal ====


def test_a_terminal_gets_no_control_sequences_of_a_text(folder: Path) -> None:
    for form in ("", "--json"):
        shown = on_terminal(folder, f"rerank --index-dir i --queries q.tsv {form}")
        for sequence in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e", "\u2066"):
            assert sequence not in shown, form
        assert "[bold]on[/bold]" in shown
        if form == "":
            assert "bees \\x1b[2J\\x1b]0;title\\x07 \\x9b31m \\u202edance\\u2066" in shown


@pytest.mark.parametrize(
    "words",
    [
        "info|--index-dir|\x1b[2J",
        "--\x1b[2J",
        "\x1b[2J",
        "rerank|--top-k|\x1b[2J",
        "rerank|--query|x|--queries|\x1b[2J|--index-dir|\x1b[2J",
        "evaluate|--qrels|\x1b[2J|x.run",
        "build|--corpus|\x1b[2J",
        "--config|\x1b[2J|build",
    ],
)
def test_nor_of_a_message(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the default index of a command is in the current directory
    result = CliRunner().invoke(cli, words.split("|"), color=True)
    assert isinstance(result.exception, SystemExit)
    assert "\x1b" not in result.output
    assert "\\x1b[2J" in result.output or "not both" in result.output or "either" in result.output


def test_nor_of_a_remark_or_a_progress(capsys: pytest.CaptureFixture[str]) -> None:
    remark("of \x1b[2J\r and caf\udcc3\udca9, caf\udce9")
    say("of \x1b[2J, one\ttwo\nthree")
    captured = capsys.readouterr()
    assert captured.err == "of \\x1b[2J\\r and caf\u00e9, caf\\xe9\n"
    assert captured.out == "of \\x1b[2J, one\ttwo\nthree\n"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_that_is_printed_has_no_nan(capsys: pytest.CaptureFixture[str], number: float) -> None:
    print_json({"a": [number, 1.5, {"b": (number,)}], "c": "NaN \x9b \u202e \udce9"})
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {
        "a": [None, 1.5, {"b": [None]}],
        "c": "NaN \x9b \u202e \ufffd",
    }
    assert "\x9b" not in printed


def test_programs_get_the_data_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(f"{HARMFUL}\tx\n")
    assert capsys.readouterr().out == f"{HARMFUL}\tx\n"
    done = run(folder, "rerank --index-dir i --query bees --json")
    texts = {each["id"]: each["text"] for each in json.loads(done.stdout)["results"]}
    assert texts["p1"] == HARMFUL
