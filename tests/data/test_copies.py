import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_classes, settings_of
from faulty import photo
from PIL import Image

from headstart.config.data import SplitSettings
from headstart.data.image_info import decode_thumbnail, inspect_images
from headstart.data.prepare import DIFFERENCE, MOST_COPIES, PreparedData, find_copies, prepare_data
from headstart.data.scan import Scan, keep_copies_together, scan_folder
from headstart.data.splits import split_class, split_images, split_off_valid
from headstart.datasets.shapes import draw_image

SHAPES = (("star", "dotted"), ("moon", "striped"), ("heart", "plain"))
RULE = SplitSettings(0.7, 0.15)


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


SAVED_AGAIN: dict[str, Callable[[Image.Image, Path], Any]] = {
    "q50.jpg": lambda image, path: image.save(path, quality=50),
    "lossless.png": lambda image, path: image.save(path),
    "q75.webp": lambda image, path: image.save(path, quality=75),
    "half.jpg": lambda image, path: half(image).save(path, quality=90),
    "twice.jpg": lambda image, path: image.resize((2 * image.width, 2 * image.height)).save(path, quality=85),
    "square.jpg": lambda image, path: image.resize((112, 112)).save(path, quality=90),
}


def draw_shapes(root: Path, count: int) -> Path:
    """`root`/<shape>/<number>.jpg for three shapes, `count` images each."""
    for shape, texture in SHAPES:
        (root / shape).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw_image(shape, texture, number).save(root / shape / f"{number:02}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 20 images each, none of which is a copy."""
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "shapes", 20)


@pytest.fixture
def with_copies(shapes: Path, tmp_path: Path) -> Path:
    """The same images, of six of which per class there is another file: one byte for byte, five saved again."""
    root = Path(shutil.copytree(shapes, tmp_path / "images"))
    for shape, _ in SHAPES:
        shutil.copyfile(root / shape / "00.jpg", root / shape / "zz-same.jpg")
        for number, (name, save) in enumerate([*SAVED_AGAIN.items()][:5], start=1):
            with Image.open(root / shape / f"{number:02}.jpg") as image:
                save(image, root / shape / f"zz-{number:02}-{name}")
    return root


def prepare(root: Path, *overrides: str) -> PreparedData:
    settings = settings_of("data=folder", f"data.root={root}", *overrides).data
    return prepare_data(settings, settings.seed)


def found_in(root: Path) -> dict[str, str]:
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return find_copies(inspect_images(root, paths))


def splits_of_sets(data: PreparedData) -> list[set[str]]:
    """The splits in which each set of copies is."""
    found: dict[str, set[str]] = {}
    for sample in data.scan.samples:
        if sample.path in data.scan.copies:
            found.setdefault(data.scan.copies[sample.path], set()).add(sample.split)
    return [*found.values()]


@pytest.mark.parametrize("name", SAVED_AGAIN)
def test_find_copies__saved_again(tmp_path: Path, name: str) -> None:
    for number in range(4):
        draw_image("star", "dotted", number).save(tmp_path / f"{number}.jpg", quality=92)
    with Image.open(tmp_path / "2.jpg") as image:
        SAVED_AGAIN[name](image, tmp_path / name)
    assert sorted(found_in(tmp_path)) == ["2.jpg", name]


@pytest.mark.slow
def test_find_copies__not_of_different_images(shapes: Path) -> None:
    assert found_in(shapes) == {}


def test_find_copies__rotated_by_exif(tmp_path: Path) -> None:
    image, exif = draw_image("star", "dotted", 0), Image.Exif()
    image.save(tmp_path / "a.jpg", quality=92)
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.jpg", quality=92, exif=exif)
    assert sorted(found_in(tmp_path)) == ["a.jpg", "b.jpg"]


def test_find_copies__neither_brighter_nor_gray_nor_mirrored_ones(tmp_path: Path) -> None:
    image = draw_image("star", "dotted", 0)
    image.save(tmp_path / "a.png")
    image.point([min(255, round(1.3 * level)) for level in range(256)] * 3).save(tmp_path / "b.png")
    image.convert("L").save(tmp_path / "c.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "d.png")
    assert found_in(tmp_path) == {}


def test_find_copies__what_shows_too_little_only_if_it_is_equal(tmp_path: Path) -> None:
    for number, level in enumerate((0, 1, 1, 255)):
        Image.new("RGB", (60, 40), (level,) * 3).save(tmp_path / f"{number}.png")
    assert sorted(found_in(tmp_path)) == ["1.png", "2.png"]


def test_find_copies__a_fixed_camera_takes_no_copies(tmp_path: Path) -> None:
    scene, noise = np.asarray(draw_image("star", "dotted", 0), float), np.random.default_rng(0)
    for number in range(MOST_COPIES + 1):
        pixels = (scene + noise.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert found_in(tmp_path) == {}
    (tmp_path / "9.png").unlink()
    assert len(found_in(tmp_path)) == MOST_COPIES


def test_find_copies__unreadable_files_are_none(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert found_in(tmp_path) == {}
    assert find_copies({}) == {}


def test_find_copies__as_a_plain_comparison_of_all_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        content = io.BytesIO()
        image = Image.open(photo(tmp_path / f"{number:02}.jpg", number))
        image.resize((58, 46)).save(content, "JPEG", quality=60 + number)
        (tmp_path / f"{number:02}-again.jpg").write_bytes(content.getvalue())
    infos = inspect_images(tmp_path, [path.name for path in sorted(tmp_path.iterdir()) if path.is_file()])
    pixels = {path: decode_thumbnail(info.thumbnail).astype(float) for path, info in infos.items()}
    expected = set()
    for one, first in pixels.items():
        for other, second in pixels.items():
            contrast = min(np.sqrt(((p - p.mean((0, 1))) ** 2).mean()) for p in (first, second))
            if one != other and np.sqrt(((first - second) ** 2).mean()) < DIFFERENCE * contrast:
                expected.add(one)
    assert expected
    monkeypatch.setattr("headstart.data.prepare.ROWS", 5)
    monkeypatch.setattr("headstart.data.prepare.COLUMNS", 3)
    assert {*find_copies(infos)} == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_split__copies_are_in_one_split(with_copies: Path, seed: int) -> None:
    data = prepare(with_copies, f"data.seed={seed}")
    sets = splits_of_sets(data)
    assert len(sets) == 18
    assert all(len(splits) == 1 for splits in sets)
    # 26 images of each class.
    assert data.manifest.counts == {"train": 54, "valid": 12, "test": 12}
    assert data.manifest.notes == ("copies are kept in one split: 36 files of 18 images",)


@pytest.mark.slow
def test_split__of_each_class_about_its_share_of_the_copies(with_copies: Path) -> None:
    of_splits = [splits for seed in range(20) for splits in splits_of_sets(prepare(with_copies, f"data.seed={seed}"))]
    shares = {split: sum(split in splits for splits in of_splits) / len(of_splits) for split in ("train", "test")}
    assert 0.6 < shares["train"] < 0.8
    assert 0.08 < shares["test"] < 0.22


@pytest.mark.slow
@pytest.mark.parametrize("rule", [("data.split.train=14", "data.split.valid=6"), ("data.folds=4", "data.fold=1")])
def test_split__by_name_and_by_fold(with_copies: Path, rule: tuple[str, ...]) -> None:
    data = prepare(with_copies, *rule)
    assert all(len(splits) == 1 for splits in splits_of_sets(data))
    if "data.split.train=14" in rule:
        assert data.manifest.counts == {"train": 42, "valid": 18, "test": 18}
        assert {"star/00.jpg", "star/zz-same.jpg", "star/06.jpg"} <= {*data.manifest.splits["train"].paths}


@pytest.mark.slow
def test_split__valid_of_train(with_copies: Path, tmp_path: Path) -> None:
    root = tmp_path / "given"
    shutil.copytree(with_copies, root / "train")
    draw_shapes(root / "test", 3)
    data = prepare(root)
    assert data.manifest.counts == {"train": 66, "valid": 12, "test": 9}
    in_drawn = [splits - {"test"} for splits in splits_of_sets(data)]
    assert all(len(splits) == 1 for splits in in_drawn)


@pytest.mark.slow
def test_split__groups_and_copies(with_copies: Path) -> None:
    data = prepare(with_copies, r"data.group=/(\d\d)\.jpg")
    assert all(len(splits) == 1 for splits in splits_of_sets(data))
    splits = {(data.manifest.groups[s.path], s.split) for s in data.scan.samples if s.path in data.manifest.groups}
    assert len(splits) == 20


@pytest.mark.slow
def test_split__given_ones_stay_as_they_are(shapes: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        shutil.copytree(shapes, tmp_path / split)
    data = prepare(tmp_path)
    assert data.manifest.counts == {"train": 60, "valid": 60, "test": 60}
    assert data.manifest.notes == ()
    # They depend on each other none the less.
    units = data.manifest.units
    assert (units["train"] == units["test"]).all()


@pytest.mark.slow
def test_split__the_same_image_in_two_classes(with_copies: Path) -> None:
    with Image.open(with_copies / "star" / "07.jpg") as image:
        image.save(with_copies / "moon" / "zz-07.png")
    for seed in range(5):
        sets = splits_of_sets(prepare(with_copies, f"data.seed={seed}"))
        assert len(sets) == 19
        assert all(len(splits) == 1 for splits in sets)


def test_split__fewer_images_than_splits_stay_as_they_were_drawn(tmp_path: Path) -> None:
    draw_classes(tmp_path, 3)
    shutil.copyfile(tmp_path / "red" / "0.jpg", tmp_path / "red" / "1.jpg")
    assert prepare(tmp_path).manifest.counts == {"train": 3, "valid": 3, "test": 3}


def test_split__without_copies_as_by_names_alone(shapes: Path) -> None:
    names = {shape: [f"{shape}/{number:02}.jpg" for number in range(20)] for shape, _ in SHAPES}
    for seed in range(3):
        data = prepare(shapes, f"data.seed={seed}")
        drawn = {c: split_class(paths, 0.7, 0.15, seed=seed, class_name=c) for c, paths in names.items()}
        for split, of_split in data.manifest.splits.items():
            assert sorted(of_split.paths) == sorted(path for parts in drawn.values() for path in parts[split])


@pytest.mark.slow
def test_split__does_not_depend_on_what_is_cached(
    with_copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    first = prepare(with_copies).manifest.fingerprint
    assert first == prepare(with_copies).manifest.fingerprint
    shutil.rmtree(tmp_path / "cache")
    assert first == prepare(with_copies).manifest.fingerprint


def random_classes(seed: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Classes of 3 to 30 images, and sets of copies among them, some of which two classes share."""
    draw = np.random.default_rng(seed)
    images = {c: [f"{c}/{number:02}" for number in range(draw.integers(3, 31))] for c in "abc"}
    paths = [path for of_class in images.values() for path in of_class]
    sets = draw.integers(0, 2 * len(paths), len(paths))
    return images, {path: f"set {number}" for path, number in zip(paths, sets.tolist(), strict=True)}


@pytest.mark.parametrize("seed", range(30))
def test_split_images__whole_sets_and_no_empty_split(seed: int) -> None:
    images, sets = random_classes(seed)
    for given, rule in (("", RULE), ("train", RULE), ("", SplitSettings(5, 2))):
        drawn = split_images({given: images}, rule, seed, None, sets)
        before = split_images({given: images}, rule, seed, None)
        split_of = {path: split for split, of_split in drawn.items() for paths in of_split.values() for path in paths}
        assert sorted(split_of) == sorted(path for paths in images.values() for path in paths)
        for name, paths in images.items():
            used = {split for split, of_split in before.items() if of_split[name]}
            shared = {sets[path] for other in images.keys() - {name} for path in images[other]}
            own = [path for path in paths if sets[path] not in shared]
            if len({sets[path] for path in own}) >= len(used):
                assert all(split_of[one] == split_of[two] for one in own for two in own if sets[one] == sets[two])
                assert {split_of[path] for path in paths} >= used


def test_split_images__without_copies_nothing_changes() -> None:
    images, _ = random_classes(0)
    alone = {path: path for paths in images.values() for path in paths}
    for rule in (RULE, SplitSettings(5, 2), SplitSettings(0.8, 0.2)):
        assert split_images({"": images}, rule, 3, None, alone) == split_images({"": images}, rule, 3, None)
    drawn = split_images({"train": images}, RULE, 3, None, alone)
    parts = {c: split_off_valid(paths, 0.15, seed=3, class_name=c) for c, paths in images.items()}
    assert drawn == {"train": {c: parts[c][0] for c in parts}, "valid": {c: parts[c][1] for c in parts}}


def test_keep_copies_together__draws_again_only_if_there_are_any(tmp_path: Path) -> None:
    draw_classes(tmp_path, 6)
    scan = scan_folder(tmp_path, RULE, seed=0)
    assert keep_copies_together(scan, {}) == scan
    again: Scan = keep_copies_together(scan, {"red/0.jpg": "x", "red/1.jpg": "x"})
    assert {*again.samples} - {*scan.samples} == {s for s in again.samples if s not in scan.samples}
    assert [s for s in again.samples if s.class_name != "red"] == [s for s in scan.samples if s.class_name != "red"]
