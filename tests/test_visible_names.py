"""Names that look alike are found, and others are not."""

import pytest

from headstart.text import alike, with_odd_character


@pytest.mark.parametrize(
    "names",
    [
        ("ant", "Ant"),
        ("ant", "ant "),
        ("ant", " ant"),
        ("ant", '"ant"'),
        ("ant", "‘ant’"),
        ("ant", "ant\u200b"),
        ("ant", "\ufeffant"),
        ("a\u00adnt", "ant"),
        ("ant", "аnt"),
        ("ΑNT", "ant"),
        ("сор", "cop"),
        ("red ant", "red\xa0ant"),
        ("red ant", "red  ant"),
        ("don't", "don’t"),
        ("ä", "a\u0308"),
        ("ﬁg", "fig"),
        ("1", "１"),
        ("1", "1.0"),
        ("1", "01"),
        ("0", "0.0"),
        ("7", "٧"),
    ],
)
def test_alike(names: tuple[str, str]) -> None:
    assert alike(["other", *names]) == [sorted(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("1", "10"),
        ("1", "-1"),
        ("1.5", "15"),
        ("1.0", "10"),
        ("5μm", "5mm"),
        ("a", "b"),
        ("Gnu", "Gnus"),
        ("a_b", "ab"),
    ],
)
def test_alike__not(names: tuple[str, str]) -> None:
    assert alike(names) == []


def test_alike__of_many_names_in_one_group() -> None:
    # The first and the last are alike only by way of the second.
    assert alike(["ВОЛ", "вол", "BOЛ"]) == [["BOЛ", "ВОЛ", "вол"]]


def test_with_odd_character() -> None:
    assert with_odd_character("ant\n", ()) == "'ant\\n'"
    assert with_odd_character("Käfer", ["Käfer "]) == "'Käfer'"
    assert with_odd_character("red\xa0ant", ["red ant"]) == "'red\\xa0ant' (with U+00A0 NO-BREAK SPACE)"
