import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import settings_of
from numpy.typing import NDArray
from PIL import Image

from headstart.auditing.findings import find_problems
from headstart.config.data import ShapesSettings
from headstart.data.prepare import prepare_data
from headstart.datasets import RECORD, shapes
from headstart.datasets.shapes import CLASSES, SHAPES, TEXTURES, draw_image, make_shapes
from headstart.errors import HeadstartError
from headstart.files import DATASET, kind_of, mark


def settings(root: Path, *overrides: str) -> ShapesSettings:
    data = settings_of("data=shapes", f"data.root={root}", *overrides).data
    assert isinstance(data, ShapesSettings)
    return data


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `data=shapes`."""
    root = tmp_path_factory.mktemp("generated") / "shapes"
    make_shapes(settings(root), seed=0)
    return root


def test_draw_image__pure_function_of_its_arguments() -> None:
    first = draw_image("star", "dotted", 3)
    assert first == draw_image("star", "dotted", 3)
    others = [draw_image("star", "dotted", 4), draw_image("star", "striped", 3), draw_image("moon", "dotted", 3)]
    assert all(first != other for other in others)


@pytest.mark.parametrize("shape", SHAPES)
def test_draw_image__every_shape_in_every_texture(shape: str) -> None:
    for texture in TEXTURES:
        image = draw_image(shape, texture, 0)
        assert image.mode == "RGB"
        assert all(120 <= side <= 176 for side in image.size)


def test_pretraining_classes__have_none_of_the_ten_classes_shapes() -> None:
    ten, others = ({name.split("_")[1] for name in CLASSES[key]} for key in ("ten", "pretraining"))
    assert len(CLASSES["ten"]) == len(set(CLASSES["ten"])) == 10
    assert len(set(CLASSES["pretraining"])) == len(CLASSES["pretraining"]) > 40
    assert not ten & others


@pytest.mark.slow
def test_generated__the_audit_finds_nothing(generated: Path) -> None:
    data = prepare_data(settings(generated), seed=0)
    assert data.manifest.counts == {"train": 400, "valid": 100, "test": 200}
    assert data.manifest.class_counts == (40,) * 10
    assert find_problems(data) == []


def test_generated__once(generated: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in generated.rglob("*")}
    make_shapes(settings(generated), seed=1)
    assert before == {path: path.stat().st_mtime_ns for path in generated.rglob("*")}


@pytest.mark.slow
def test_generated__same_images_for_every_split(generated: Path, tmp_path: Path) -> None:
    data = settings(tmp_path / "a", "data.per_class=6", "data.split.train=3", "data.split.valid=2")
    make_shapes(data, seed=0)
    found = contents(tmp_path / "a")
    assert len(found) == 60
    expected = {Path(path).parts[1:]: content for path, content in contents(generated).items()}
    assert all(expected[Path(path).parts[1:]] == content for path, content in found.items())
    other = settings(
        tmp_path / "b", "data.per_class=2", "data.split.train=1", "data.split.valid=1", "data.drawing_seed=1"
    )
    make_shapes(other, seed=0)
    assert not set(contents(tmp_path / "b").values()) & set(expected.values())


def test_generated__completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(shape: str, texture: str, seed: int) -> Image.Image:
        if shape == "ring":
            raise OSError(28, "No space left on device")
        return draw_image(shape, texture, seed)

    few = ("data.per_class=3", "data.split.train=1", "data.split.valid=1")
    data = settings(tmp_path / "deep" / "shapes", *few)
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "draw_image", fails)
        with pytest.raises(OSError, match="No space"):
            make_shapes(data, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("mine", [True, False])
def test_generated__removes_what_a_killed_process_left_and_nothing_else(mine: bool, tmp_path: Path) -> None:
    left = tmp_path / ".headstart-shapes.unfinished"
    if mine:
        left.mkdir()
    else:
        mark(left, DATASET)
    (left / "1.png").touch()
    if mine:
        with pytest.raises(HeadstartError, match="is in the way, and headstart did not write it: move it elsewhere"):
            make_shapes(settings(tmp_path / "shapes"), seed=0)
        assert (left / "1.png").exists()
    else:
        few = ("data.per_class=2", "data.split.train=1", "data.split.valid=1")
        make_shapes(settings(tmp_path / "shapes", *few), seed=0)
        assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
        assert kind_of(tmp_path / "shapes") is None


@pytest.mark.slow
def test_existing_folder__of_version_0_1(generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated, tmp_path / "shapes")
    record = json.loads((generated / RECORD).read_text())
    assert record.pop("images") == "generated shapes"
    (tmp_path / "shapes" / RECORD).write_text(json.dumps({"pictures": "drawn pictures"} | record))
    make_shapes(settings(tmp_path / "shapes"), seed=0)
    with pytest.raises(HeadstartError, match="was created with per_class 70, not 80"):
        make_shapes(settings(tmp_path / "shapes", "data.per_class=80"), seed=0)


@pytest.mark.slow
def test_existing_folder__error_if_it_holds_something_else(generated: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match="was created with per_class 70, not 80"):
        make_shapes(settings(generated, "data.per_class=80"), seed=0)
    with pytest.raises(HeadstartError, match="was created with classes ten, not pretraining"):
        make_shapes(settings(generated, "data.classes=pretraining"), seed=0)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("Dear Sir or Madam")
    with pytest.raises(HeadstartError, match=r"does not hold generated shapes: use data=folder data\.root=.*/own for"):
        make_shapes(settings(tmp_path / "own"), seed=0)


def test_per_class__error_if_too_small_for_the_splits(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match=r"data\.per_class=49 is too small for data\.split\.train=40 and"):
        make_shapes(settings(tmp_path / "few", "data.per_class=49"), seed=0)
    assert not (tmp_path / "few").exists()


@pytest.mark.slow
def test_colour__does_not_tell_the_class(generated: Path) -> None:
    train, test = (_histograms(generated / split) for split in ("train", "test"))
    distances = np.abs(test[0][:, None] - train[0][None]).sum(axis=2)
    nearest = train[1][np.argsort(distances, axis=1)[:, :9]]
    votes = np.array([np.bincount(row, minlength=10).argmax() for row in nearest])
    # Chance is 0.1, give or take 0.04 with 200 images.
    assert (votes == test[1]).mean() < 0.2


def _histograms(split: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The shares of 64 colours (N, 64), and the labels (N)."""
    shares, labels = [], []
    for label, folder in enumerate(sorted(split.iterdir())):
        for path in sorted(folder.iterdir()):
            pixels = np.asarray(Image.open(path)).reshape(-1, 3).astype(int) // 64
            shares.append(np.bincount(pixels @ (16, 4, 1), minlength=64) / len(pixels))
            labels.append(label)
    return np.array(shares), np.array(labels)


@pytest.mark.parametrize("record", ["{", "[]", '{"images": "generated shapes"}'])
def test_root__with_a_damaged_record_is_one_sentence(tmp_path: Path, record: str) -> None:
    (tmp_path / RECORD).write_text(record)
    with pytest.raises(HeadstartError, match=r"does not hold generated shapes|was created with"):
        make_shapes(settings(tmp_path), seed=0)
