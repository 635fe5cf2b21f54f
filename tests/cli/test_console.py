"""What commands show of long work."""

import pytest

from dipair_index.cli import _console as console


def test_a_speed_is_shown_once_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 10.0, 10.0, 10.0, 12.0, 12.0, 12.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0)
    with console.progress("Scoring", "pairs") as report:
        report(1000)  # perhaps done by a run before this one
        report(1500)
    assert capsys.readouterr().err.splitlines() == [
        "Scoring: 1,000 pairs",
        "Scoring: 1,500 pairs, 250 a second",
    ]
