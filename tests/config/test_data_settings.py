"""Values under `data` that contradict each other."""

import pytest
from conftest import settings_of

from headstart.config.data import ColumnSettings
from headstart.errors import HeadstartError

CSV = ("data=csv", "data.root=DIR", "data.csv=labels.csv")
FOLDER = ("data=folder", "data.root=DIR")


@pytest.mark.slow
def test_csv__defaults() -> None:
    data = settings_of(*CSV).data
    assert (data.csv, data.group, data.columns) == ("labels.csv", "auto", ColumnSettings("path", "label", "auto"))
    assert settings_of(*CSV, "data.columns.split=null").data.columns.split is None


@pytest.mark.slow
def test_texts__may_have_any_characters() -> None:
    assert settings_of(*FOLDER, r"data.group=^(p\d{1,2}),[^/]*$").data.group == r"^(p\d{1,2}),[^/]*$"
    assert settings_of(*CSV, "data.columns.label=Class (main), new").data.columns.label == "Class (main), new"
    assert settings_of(*FOLDER, "data.group=null").data.group is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=csv", "data.root=DIR"), "data.csv is missing: set it with data.csv=FILE"),
        ((*CSV, "data.layout=classes"), "data.layout=classes has no effect with data.csv, which says what is where"),
        (
            (*FOLDER, "data.group=(p"),
            "data.group=(p is no regular expression (missing ), unterminated subpattern at position 0): without "
            "data.csv, it is searched for in the path of each image",
        ),
        (
            (*CSV, "data.encoding=excel"),
            "data.encoding=excel is invalid: it must be auto, or an encoding such as cp1252 or gbk",
        ),
        (
            (*CSV, "data.encoding=base64"),
            "data.encoding=base64 is invalid: it must be auto, or an encoding such as cp1252 or gbk",
        ),
        ((*CSV, "data.missing=nan"), "data.missing=nan is invalid: it must be a list, such as data.missing=[nan]"),
        ((*FOLDER, "data.fold=0"), "data.fold=0 needs the number of folds, such as data.folds=5"),
        (
            (*FOLDER, "data.folds=5"),
            "data.folds=5 needs data.fold=0 to 4, the one to validate on; -m 'data.fold=range(5)' trains on all of "
            "them in turn",
        ),
        ((*FOLDER, "data.folds=1"), "data.folds=1 is invalid: it must be an integer of 2 or more, or null"),
    ],
)
def test_error(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(HeadstartError) as caught:
        settings_of(*overrides)
    assert str(caught.value) == message


def test_error__fold_beyond_the_last() -> None:
    with pytest.raises(HeadstartError, match=r"^data\.folds=3 needs data\.fold=0 to 2"):
        settings_of(*FOLDER, "data.folds=3", "data.fold=3")
