from headstart.auditing.findings import Finding
from headstart.auditing.report import findings_table, log_findings

FINDINGS = [
    *(Finding("truncated", (f"train/ant/{n}.jpg",), "image file is truncated") for n in range(5)),
    Finding("duplicates across splits", ("train/ant/7.jpg", "test/ant/8.jpg"), "the same image in test and train"),
    Finding("small class", (), "'gnu' has 9 images in train"),
    Finding("other file", ("notes.txt",)),
]


def test_table__severity_count_and_examples_of_each_kind() -> None:
    rows = [line.split() for line in findings_table(FINDINGS).splitlines()]
    assert [" ".join(row) for row in rows] == [
        "severity count finding",
        "error 5 truncated",
        "train/ant/0.jpg: image file is truncated",
        "train/ant/1.jpg: image file is truncated",
        "train/ant/2.jpg: image file is truncated",
        "… and 2 more",
        "error 1 duplicates across splits",
        "train/ant/7.jpg and test/ant/8.jpg: the same image in test and train",
        "warning 1 small class",
        "'gnu' has 9 images in train",
        "warning 1 other file",
        "notes.txt",
    ]


def test_log_findings__one_line_per_kind(messages: list[str]) -> None:
    log_findings(FINDINGS)
    assert messages == [
        "truncated: train/ant/0.jpg: image file is truncated (and 4 more: see task=audit)",
        "duplicates across splits: train/ant/7.jpg and test/ant/8.jpg: the same image in test and train",
        "small class: 'gnu' has 9 images in train",
        "other file: notes.txt",
    ]


def test_lines__of_thousands_of_copies_are_short(messages: list[str]) -> None:
    paths = tuple(f"train/ant/{number:05}.jpg" for number in range(3000))
    log_findings([Finding("duplicates within a split", paths, "the same image 3000 times in train")])
    assert len(messages[0]) < 1000
    assert "more: the same image 3000 times" in messages[0]
