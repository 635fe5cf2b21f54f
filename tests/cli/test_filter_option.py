"""`--filter`: the conditions as they are typed."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from dipair_index.cli._filter_option import parsed_filter
from dipair_index.errors import SettingsError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], None),
        (["lang=en"], {"lang": ["en"]}),
        (["lang=en", "lang=fr"], {"lang": ["en", "fr"]}),
        (["lang = de , at"], {"lang": ["de , at"]}),
        (["year=2000"], {"year": [2000, "2000"]}),
        (['zip="02134"'], {"zip": ["02134"]}),
        (["done=true"], {"done": [True, "true"]}),
        (["a=b=c"], {"a": ["b=c"]}),
        (["empty="], {"empty": [""]}),
        (["list=[1]"], {"list": ["[1]"]}),
        (
            ["year>=2000", "year < 2010", "lang=en"],
            {"year": {"gte": 2000, "lt": 2010}, "lang": ["en"]},
        ),
        (["when>2001-02-03"], {"when": {"gt": "2001-02-03"}}),
        (['n<="5"'], {"n": {"lte": "5"}}),
        (['{"a<b": 1, "y": {"lt": 3}}', "x=é"], {"a<b": 1, "y": {"lt": 3}, "x": ["é"]}),
    ],
)
def test_conditions_make_a_filter(typed: list[str], meant: dict[str, Any] | None) -> None:
    assert parsed_filter(tuple(typed)) == meant


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        (["lang"], click.UsageError, "'lang' is no condition: give FIELD=VALUE, FIELD>=VALUE"),
        (["lang!=en"], click.UsageError, "'lang!=en' is no condition"),
        (["=en"], click.UsageError, "'=en' is no condition"),
        (["[1]"], click.UsageError, r"'\[1\]' is no condition"),
        (['{"a": '], click.UsageError, "is no JSON: Expecting value"),
        (["year=1", "year>0"], click.UsageError, "'year>0' does not fit the conditions on 'year'"),
        (["year>0", "year=1"], click.UsageError, "'year=1' does not fit the conditions"),
        (["year>0", "year>1"], click.UsageError, "'year>1' does not fit .* each bound once"),
        (["year=1", '{"year": 1}'], click.UsageError, "does not fit the conditions on 'year'"),
        (['{"year": {"above": 1}}'], SettingsError, "the unknown bound 'above'"),
        (["year>true"], SettingsError, "must be all numbers or all texts"),
        (["year>0", "year<x"], SettingsError, "must be all numbers or all texts"),
    ],
)
def test_what_is_no_condition_is_quoted(
    typed: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        parsed_filter(tuple(typed))


def test_json_of_a_filter_is_taken_as_it_is() -> None:
    filter = {"lang": ["en", None], "year": {"gte": 2000.5}}
    assert parsed_filter((json.dumps(filter),)) == filter
