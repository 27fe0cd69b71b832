"""What the audit's findings do to a run."""

import dataclasses
from pathlib import Path

import pytest
from faulty import clean, conflicting_labels, copies_across, empty_file, truncated

from headstart.data.ready import Ready, examine, make_ready
from headstart.errors import HeadstartError
from headstart.settings import DataSettings, SplitSettings

SETTINGS = DataSettings(
    maker=None,
    root="",
    split=SplitSettings(train=6, valid=3),
    batch_size=4,
    num_workers=0,
    resize_size=40,
    image_size=32,
    balance="none",
    on_unreadable="error",
    on_leak="warn",
    near_duplicates="auto",
)


def ready(root: Path, **policies: str) -> Ready:
    settings = dataclasses.replace(SETTINGS, root=str(root), **policies)
    return make_ready(examine(settings, seed=0), settings)


def test_clean__everything_is_used(tmp_path: Path) -> None:
    made = ready(clean(tmp_path))
    assert made.manifest.counts() == {"train": 36, "valid": 12, "test": 12}
    assert (made.skipped, made.dropped, made.findings) == ((), (), [])


def test_on_unreadable__error_names_the_first_and_counts_the_others(tmp_path: Path) -> None:
    truncated(clean(tmp_path))
    with pytest.raises(HeadstartError, match=r"valid/ant/half\.jpg cannot be read as a picture: .*on_unreadable=skip$"):
        ready(tmp_path)
    empty_file(tmp_path)
    with pytest.raises(HeadstartError, match=r"and 1 more: see task=audit"):
        ready(tmp_path)


def test_on_unreadable__skip_leaves_out_and_puts_nothing_in_its_place(tmp_path: Path) -> None:
    flat = clean(tmp_path / "all") / "train"
    before = ready(flat).manifest.splits
    (flat / "ant" / "02.jpg").write_bytes(b"")
    made = ready(flat, on_unreadable="skip")
    assert made.skipped == ("ant/02.jpg",)
    assert made.manifest.counts() == {"train": 17, "valid": 9, "test": 9}
    assert made.manifest.splits["train"].paths == tuple(p for p in before["train"].paths if p != "ant/02.jpg")
    assert made.manifest.splits["valid"].paths == before["valid"].paths
    assert "empty file" not in {finding.kind for finding in made.findings}


def test_on_unreadable__skip_does_not_empty_a_class(tmp_path: Path) -> None:
    clean(tmp_path)
    for path in (tmp_path / "test" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(HeadstartError, match=r"test/cat holds no pictures that can be used"):
        ready(tmp_path, on_unreadable="skip")


def test_on_leak__warn_uses_all_and_says_so(tmp_path: Path) -> None:
    copies_across(clean(tmp_path))
    made = ready(tmp_path)
    assert made.manifest.counts()["train"] == 36
    assert [finding.kind for finding in made.findings] == ["copies across splits"]


def test_on_leak__error_names_one(tmp_path: Path) -> None:
    copies_across(clean(tmp_path))
    with pytest.raises(HeadstartError, match=r"^1 picture of the train split .* such as train/ant/04\.jpg: "):
        ready(tmp_path, on_leak="error")


def test_on_leak__drop_takes_the_copy_out_of_train_alone(tmp_path: Path) -> None:
    copies_across(clean(tmp_path))
    (tmp_path / "valid/bee/too.jpg").write_bytes((tmp_path / "train/bee/00.jpg").read_bytes())
    made = ready(tmp_path, on_leak="drop")
    assert made.dropped == ("train/ant/04.jpg", "train/bee/00.jpg")
    assert made.manifest.counts() == {"train": 34, "valid": 13, "test": 13}
    assert made.findings == []


def test_on_leak__drop_leaves_copies_between_valid_and_test_and_within_train(tmp_path: Path) -> None:
    conflicting_labels(clean(tmp_path))
    (tmp_path / "valid/bee/too.jpg").write_bytes((tmp_path / "test/bee/00.jpg").read_bytes())
    made = ready(tmp_path, on_leak="drop")
    assert made.dropped == ()
    assert [finding.kind for finding in made.findings] == ["conflicting labels", "copies across splits"]
