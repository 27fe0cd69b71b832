"""16-bit files that use only some of their bits, from the scan to the checkpoint."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Script, settings_of
from PIL import Image

from headstart.auditing.findings import find_problems
from headstart.data.dataset import ImageDataset
from headstart.data.images import read_rgb
from headstart.data.prepare import PreparedData, inspect_data
from headstart.data.preprocessing import Preprocessing
from headstart.data.transforms import EvalTransform
from headstart.model.checkpoint import read_checkpoint
from headstart.model.recipe import Recipe

SIZES = Preprocessing(resize_size=40, image_size=32)


def draw_deep(root: Path, bits: int) -> Path:
    """Two classes of twelve grayscale images, in 16-bit PNG files of which `bits` are used."""
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for index in range(12):
            random = np.random.default_rng(100 * number + index)
            pixels = random.integers(60 + 60 * number, 200 + 56 * number, (40, 40)).astype(np.uint16)
            Image.fromarray(pixels << (bits - 8)).save(root / name / f"{index}.png")
    return root


def data_of(root: Path, *overrides: str) -> PreparedData:
    settings = settings_of(*SMALL, f"data.root={root}", *overrides)
    return inspect_data(settings.data, 0)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_auto__is_what_the_files_hold(tmp_path: Path, bits: int) -> None:
    data = data_of(draw_deep(tmp_path / "images", bits))
    assert data.manifest.depth == bits
    found = next((f for f in find_problems(data) if f.kind == "unused bits"), None)
    if bits == 16:
        assert found is None
        assert not data.manifest.notes
    else:
        assert found is not None
        assert found.says.startswith(f"24 images with 16 bits per sample, of which {bits} are used (dark/")
        assert found.says.endswith(f"read as {bits}-bit")
        assert f"16-bit files are read as {bits}-bit ones (data.depth=auto)" in data.manifest.describe()
    # As many bits as one image uses are not what all of them use.
    assert not [f for f in find_problems(data) if f.kind in ("dark", "overexposed")]


def test_depth__of_the_users_choice(tmp_path: Path) -> None:
    root = draw_deep(tmp_path / "images", 12)
    data = data_of(root, "data.depth=8")
    assert data.manifest.depth == 8
    (found,) = (f for f in find_problems(data) if f.kind == "unused bits")
    assert found.says.endswith("read as 8-bit, and brighter samples are clipped")
    assert data_of(root, "data.depth=16").manifest.depth == 16


def test_auto__of_8_bit_files_changes_no_key(flat: Path) -> None:
    data = data_of(flat)
    assert (data.manifest.depth, data.manifest.notes) == (16, ())
    assert "depth" not in SIZES.as_dict()
    assert Preprocessing(**SIZES.as_dict()) == SIZES
    deep = Preprocessing(40, 32, depth=12)
    assert Preprocessing(**deep.as_dict()) == deep
    assert EvalTransform(deep).spec != EvalTransform(SIZES).spec


def test_dataset__reads_as_its_transform_says(tmp_path: Path) -> None:
    split = data_of(draw_deep(tmp_path / "images", 12)).manifest.splits["train"]
    deep = Preprocessing(40, 32, depth=12)
    image, _ = ImageDataset(split, EvalTransform(deep))[0, 0]
    expected = read_rgb(split.root / split.paths[0], 12)
    assert (image == EvalTransform(deep)(expected, 0, 0)).all()
    assert image.max() > 150


@pytest.mark.slow
def test_run__records_the_depth_and_predicts_with_it(tmp_path: Path, script: Script) -> None:
    root, plain = draw_deep(tmp_path / "images", 12), draw_deep(tmp_path / "plain", 8)
    for path in plain.rglob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    options = [o for o in SMALL if o != "report=none"]
    status = script(
        "train.py", f"data.root={root}", *options, "report=full", f"hydra.run.dir={tmp_path / 'run'}"
    ).status
    assert status == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert Recipe.from_dict(read_checkpoint(checkpoint)["hyper_parameters"]).preprocessing.depth == 12
    tables = [
        script("predict.py", f"ckpt_path={checkpoint}", f"source={source}", "topk=1").out.replace(str(source), "")
        for source in (root, plain)
    ]
    assert tables[0] == tables[1]
    assert "dark/0.png" in tables[0]
