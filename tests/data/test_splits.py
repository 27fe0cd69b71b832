import pytest

from headstart.data.splits import split_class

NAMES = [f"{number:03}.jpg" for number in range(100)]


def test_counts__first_come_by_name() -> None:
    parts = split_class(NAMES[::-1], 60, 10, seed=0, class_name="a")
    assert parts == {"train": NAMES[:60], "valid": NAMES[60:70], "test": NAMES[70:]}


def test_fractions__a_draw_by_seed_and_class() -> None:
    parts = split_class(NAMES, 0.7, 0.2, seed=0, class_name="a")
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "valid": 20, "test": 10}
    assert sorted(name for part in parts.values() for name in part) == NAMES
    assert parts == split_class(NAMES[::-1], 0.7, 0.2, seed=0, class_name="a")
    assert parts != split_class(NAMES, 0.7, 0.2, seed=1, class_name="a")
    assert parts != split_class(NAMES, 0.7, 0.2, seed=0, class_name="b")
    assert parts["train"] != NAMES[:70]


def test_fractions__the_whole_leaves_no_test_split() -> None:
    parts = split_class(NAMES, 0.7, 0.3, seed=0, class_name="a")
    assert [len(part) for part in parts.values()] == [70, 30, 0]


@pytest.mark.parametrize("count", range(3, 12))
def test_fractions__no_split_of_a_small_class_is_empty(count: int) -> None:
    parts = split_class(NAMES[:count], 0.9, 0.05, seed=0, class_name="a")
    assert all(parts.values())
    assert sum(map(len, parts.values())) == count
