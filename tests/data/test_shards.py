"""WebDataset's shards are read as the images in them would be from class folders."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from conftest import COLOURS, draw, drawn, settings_of

from headstart.config.data import DataSettings
from headstart.data.labels import INCOMPLETE, read_shards
from headstart.data.prepare import prepare_data
from headstart.data.scan import scan_images
from headstart.errors import HeadstartError

NAMES = sorted(COLOURS)
COUNT = 12


def image(number: int) -> bytes:
    return drawn(COLOURS[NAMES[number % 3]], number, (48, 40), ".jpg")


def shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


def samples(first: int, last: int, label: str = "cls") -> dict[str, bytes]:
    files = {}
    for number in range(first, last):
        name = NAMES[number % 3]
        files[f"{number:05}.jpg"] = image(number)
        files[f"{number:05}.{label}"] = (name if label == "cls" else json.dumps({"label": name, "id": number})).encode()
    return files


def settings(root: Path, *overrides: str) -> DataSettings:
    return settings_of("data=webdataset", f"data.root={root}", *overrides).data


@pytest.mark.slow
@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_have_the_images_and_classes_of_class_folders(label: str, tmp_path: Path) -> None:
    for number in range(4):
        shard(tmp_path / "shards" / f"{number:04}.tar", samples(COUNT * number, COUNT * (number + 1), label))
    for number in range(4 * COUNT):
        draw(tmp_path / "folders" / NAMES[number % 3] / f"{number:05}.jpg", COLOURS[NAMES[number % 3]], number)
    in_shards = prepare_data(settings(tmp_path / "shards"), 0)
    in_folders = prepare_data(settings_of("data=folder", f"data.root={tmp_path / 'folders'}").data, 0)
    assert in_shards.manifest.classes == in_folders.manifest.classes == tuple(NAMES)
    assert in_shards.manifest.counts == in_folders.manifest.counts

    def contents(data: object) -> dict[str, str]:
        scan, infos = data.scan, data.infos  # type: ignore[attr-defined]
        return {infos[sample.path].sha256: sample.class_name for sample in scan.samples}

    assert contents(in_shards) == contents(in_folders)
    assert len(contents(in_shards)) == 4 * COUNT


def test_a_library_that_writes_shards_is_understood(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=5, verbose=0) as writer:
        for number in range(COUNT):
            values = {"__key__": f"sample{number:04}", "jpg": image(number), "cls": number % 3}
            writer.write(values | {"json": {"width": 48}})
    images = read_shards(tmp_path, "label").images["train"]
    assert {name: len(paths) for name, paths in images.items()} == {"0": 4, "1": 4, "2": 4}
    assert images["1"][0] == "train-0000.tar/sample0001.jpg"


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (("train-0.tar", "val-0.tar", "test-0.tar"), {"train", "valid", "test"}),
        (("train/0.tar", "validation/0.tar"), {"train", "valid"}),
        (("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"), {"train", "valid"}),
        (("0000.tar", "0001.tar"), {""}),
    ],
)
def test_names_say_the_split(paths: tuple[str, ...], splits: set[str], tmp_path: Path) -> None:
    for number, path in enumerate(paths):
        shard(tmp_path / path, samples(COUNT * number, COUNT * (number + 1)))
    assert set(read_shards(tmp_path, "label").images) == splits


def test_numbers_are_named_by_the_file_beside_the_shards(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"a.jpg": image(0), "a.cls": b"1\n", "b.jpg": image(1), "b.cls": b"blue"})
    (tmp_path / "classnames.txt").write_text("blue\nred\n")
    assert read_shards(tmp_path, "label").images == {"": {"blue": ["0.tar/b.jpg"], "red": ["0.tar/a.jpg"]}}
    (tmp_path / "classnames.txt").write_text("blue\n")
    with pytest.raises(HeadstartError, match=r"'1' of 0\.tar/a\.jpg is neither a line number of classnames\.txt nor"):
        read_shards(tmp_path, "label")


def test_what_has_no_label_is_said(tmp_path: Path) -> None:
    files = {"a.jpg": image(0), "a.cls": b"red", "b.jpg": image(1), "c.jpg": image(2), "c.cls": b" "}
    files |= {"d.jpg": image(3), "d.json": b'{"label": ["red", "blue"]}', "e.jpg": image(4), "e.json": b"{"}
    files |= {"a.mask.png": image(5), "._a.jpg": b"x", "deep/f.jpg": image(6), "deep/f.cls": b"blue", "g.cls": b"red"}
    shard(tmp_path / "0.tar", files)
    labels = read_shards(tmp_path, "label")
    assert labels.images == {"": {"blue": ["0.tar/deep/f.jpg"], "red": ["0.tar/a.jpg"]}}
    assert {problem.path: problem.says for problem in labels.problems} == {
        "0.tar/b.jpg": "it has neither .cls nor .json",
        "0.tar/c.jpg": "c.cls is empty",
        "0.tar/d.jpg": "'label' of d.json is not one label",
        "0.tar/e.jpg": "e.json has no 'label' (data.columns.label)",
    }
    assert {problem.kind for problem in labels.problems} == {INCOMPLETE}
    with pytest.raises(HeadstartError, match=r"has an incomplete row for 0\.tar/b\.jpg.*3 more"):
        prepare_data(settings(tmp_path), 0)


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match="holds no tar shards"):
        read_shards(tmp_path, "label")
    shard(tmp_path / "train-0.tar", samples(0, 3))
    shard(tmp_path / "more.tar", samples(3, 6))
    with pytest.raises(HeadstartError, match=r"more\.tar is of no split"):
        read_shards(tmp_path, "label")
    (tmp_path / "more.tar").write_bytes((tmp_path / "train-0.tar").read_bytes()[:3000])
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(HeadstartError, match="is damaged, or not a complete tar archive"):
        read_shards(tmp_path, "label")
    (tmp_path / "more.tar").unlink()
    shard(tmp_path / "0.tar", {"a.jpg": image(0)})
    with pytest.raises(HeadstartError, match=r"no image with a label \(0\.tar/a\.jpg: it has neither"):
        read_shards(tmp_path, "label")


def test_shards_are_never_written_to(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", samples(0, 3 * COUNT))
    before = path.read_bytes(), path.stat().st_mtime_ns
    scan_images(settings(tmp_path), 0)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.tar"]
