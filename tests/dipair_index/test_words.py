import pytest

from dipair_index.words import counted, listed


@pytest.mark.parametrize(
    ("count", "one", "phrase"),
    [
        (0, "passage", "0 passages"),
        (1, "passage", "1 passage"),
        (2, "judged query", "2 judged queries"),
        (1, "judged query", "1 judged query"),
        (3, "key", "3 keys"),
        (1234567, "byte", "1,234,567 bytes"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, one: str, phrase: str) -> None:
    assert counted(count, one) == phrase


def test_a_phrase_with_a_verb_has_a_plural_of_its_own() -> None:
    assert counted(1, "row is", "rows are") == "1 row is"
    assert counted(1000, "row is", "rows are") == "1,000 rows are"


def test_a_long_list_is_cut_and_counted() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed("abcde") == "a, b, c, d, e"
    assert listed(iter("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(map(str, range(1006))) == "0, 1, 2, 3, 4 and 1,001 more"
    assert listed("abc", most=1) == "a and 2 more"
