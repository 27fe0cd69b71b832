from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from PIL import Image

from headstart.data import shapes
from headstart.data.forms import FORMS, TEXTURES
from headstart.data.ready import examine, make_ready
from headstart.data.shapes import CLASSES, draw_picture, make_shapes
from headstart.errors import HeadstartError
from headstart.settings import ShapesSettings, check_train


def settings(root: Path, *overrides: str) -> ShapesSettings:
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", ["data=shapes", f"data.root={root}", "run_dir=run", *overrides])
    data = check_train(config).data
    assert isinstance(data, ShapesSettings)
    return data


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `data=shapes` makes."""
    root = tmp_path_factory.mktemp("made") / "shapes"
    make_shapes(settings(root), seed=0)
    return root


def test_picture__is_a_function_of_its_arguments() -> None:
    first = draw_picture("star", "dotted", 3)
    assert first == draw_picture("star", "dotted", 3)
    others = [draw_picture("star", "dotted", 4), draw_picture("star", "striped", 3), draw_picture("moon", "dotted", 3)]
    assert all(first != other for other in others)


@pytest.mark.parametrize("form", FORMS)
def test_picture__every_form_in_every_texture(form: str) -> None:
    for texture in TEXTURES:
        picture = draw_picture(form, texture, 0)
        assert picture.mode == "RGB"
        assert all(120 <= side <= 176 for side in picture.size)


def test_pretraining__has_none_of_the_tens_forms() -> None:
    ten, others = ({name.split("_")[1] for name in CLASSES[key]} for key in ("ten", "pretraining"))
    assert len(CLASSES["ten"]) == len(set(CLASSES["ten"])) == 10
    assert len(set(CLASSES["pretraining"])) == len(CLASSES["pretraining"]) > 40
    assert not ten & others


def test_made__is_sound_by_the_projects_own_audit(made: Path) -> None:
    data = settings(made)
    ready = make_ready(examine(data, seed=0), data)
    assert {name: len(split.paths) for name, split in ready.manifest.splits.items()} == {
        "train": 400,
        "valid": 100,
        "test": 200,
    }
    assert ready.manifest.class_counts() == (40,) * 10
    assert ready.findings == []


def test_made__once(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_shapes(settings(made), seed=1)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_made__the_same_again_and_by_any_split(made: Path, tmp_path: Path) -> None:
    data = settings(tmp_path / "a", "data.per_class=6", "data.split.train=3", "data.split.valid=2")
    make_shapes(data, seed=0)
    found = contents(tmp_path / "a")
    assert len(found) == 60
    expected = {Path(path).parts[1:]: content for path, content in contents(made).items()}
    assert all(expected[Path(path).parts[1:]] == content for path, content in found.items())
    other = settings(
        tmp_path / "b", "data.per_class=2", "data.split.train=1", "data.split.valid=1", "data.drawing_seed=1"
    )
    make_shapes(other, seed=0)
    assert not set(contents(tmp_path / "b").values()) & set(expected.values())


def test_made__not_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(form: str, texture: str, seed: int) -> Image.Image:
        if form == "ring":
            raise OSError(28, "No space left on device")
        return draw_picture(form, texture, seed)

    data = settings(tmp_path / "deep" / "shapes")
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "draw_picture", fails)
        with pytest.raises(OSError, match="No space"):
            make_shapes(data, seed=0)
    assert list((tmp_path / "deep").iterdir()) == []


def test_refused__what_the_folder_does_not_hold(made: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match="was made with per_class 70, not 80"):
        make_shapes(settings(made, "data.per_class=80"), seed=0)
    with pytest.raises(HeadstartError, match="was made with classes ten, not pretraining"):
        make_shapes(settings(made, "data.classes=pretraining"), seed=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(HeadstartError, match=r"holds something else than drawn pictures: .* say data=folder"):
        make_shapes(settings(tmp_path / "mine"), seed=0)
    with pytest.raises(HeadstartError, match=r"data\.per_class=49 cannot work"):
        make_shapes(settings(tmp_path / "few", "data.per_class=49"), seed=0)
    assert not (tmp_path / "few").exists()


def test_colour__tells_nothing_of_the_class(made: Path) -> None:
    train, test = (_histograms(made / split) for split in ("train", "test"))
    distances = np.abs(test[0][:, None] - train[0][None]).sum(axis=2)
    nearest = train[1][np.argsort(distances, axis=1)[:, :9]]
    votes = np.array([np.bincount(row, minlength=10).argmax() for row in nearest])
    # Chance is 0.1; 200 pictures put it within 0.04 of that.
    assert (votes == test[1]).mean() < 0.2


def _histograms(split: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Shares of 64 colours (N, 64), and the classes (N)."""
    shares, labels = [], []
    for label, folder in enumerate(sorted(split.iterdir())):
        for path in sorted(folder.iterdir()):
            pixels = np.asarray(Image.open(path)).reshape(-1, 3).astype(int) // 64
            shares.append(np.bincount(pixels @ (16, 4, 1), minlength=64) / len(pixels))
            labels.append(label)
    return np.array(shares), np.array(labels)
