"""16-bit files that use only some of their bits, from the scan to the checkpoint."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Script, settings_of
from odd_files import deep_png
from PIL import Image

from headstart.auditing.findings import ODD_DEPTH, Finding, find_problems
from headstart.data.dataset import EvalTransform, ImageDataset
from headstart.data.images import read_rgb
from headstart.data.prepare import PreparedData, inspect_data
from headstart.data.preprocessing import Preprocessing, Samples, other_depth, used_depth
from headstart.model.checkpoint import read_checkpoint
from headstart.model.recipe import Recipe
from headstart.report.page import write_audit_page
from headstart.run_folder import RunFolder

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


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
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


def odd(data: PreparedData) -> dict[str, str]:
    """Of the images that stand out by their bit depth, why."""
    return {f.paths[0]: f.says for f in find_problems(data) if f.kind == ODD_DEPTH}


def with_hot_pixel(path: Path, value: int = 65535) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(path)


def test_hot_pixel__of_one_file_does_not_decide_for_all(tmp_path: Path) -> None:
    root = draw_deep(tmp_path / "images", 12)
    with_hot_pixel(root / "light" / "3.png")
    data = data_of(root)
    assert data.manifest.depth == 12
    assert odd(data) == {
        "light/3.png": "samples up to 65,535: less than 0.1 % of it is too bright for 12 bits and clipped"
    }
    assert "of another bit depth than the others: light/3.png (see task=audit)" in data.manifest.notes


@pytest.mark.slow
def test_hot_pixel__in_every_file(tmp_path: Path) -> None:
    root = draw_deep(tmp_path / "images", 12)
    for path in root.rglob("*.png"):
        with_hot_pixel(path)
    data = data_of(root)
    assert data.manifest.depth == 12
    assert len(odd(data)) == 24


@pytest.mark.slow
def test_a_brighter_pixel__of_the_same_camera_counts(tmp_path: Path) -> None:
    """Few pixels of a night sky use the bits that all others leave unused."""
    root = draw_deep(tmp_path / "images", 10)
    for path in root.rglob("*.png"):
        with_hot_pixel(path, 4000)
    assert data_of(root).manifest.depth == 12


def test_file_of_another_camera__is_outvoted_and_named(tmp_path: Path) -> None:
    root = draw_deep(tmp_path / "images", 12)
    (draw_deep(tmp_path / "other", 16) / "light" / "0.png").rename(root / "light" / "0.png")
    data = data_of(root)
    assert data.manifest.depth == 12
    assert list(odd(data)) == ["light/0.png"]
    assert "100.0% of it is too bright for 12 bits and clipped" in odd(data)["light/0.png"]


def test_two_cameras__all_are_read_alike_and_the_darker_ones_named(tmp_path: Path) -> None:
    root, other = draw_deep(tmp_path / "images", 12), draw_deep(tmp_path / "other", 16)
    for index in range(5):
        (other / "light" / f"{index}.png").rename(root / "light" / f"{index}.png")
    data = data_of(root)
    assert data.manifest.depth == 16
    assert len(odd(data)) == 19
    assert set(odd(data).values()) == {
        "it uses only 12 of the 16 bits that are read: from another source, or almost black"
    }


def test_audit__sees_the_pixels_that_training_sees(tmp_path: Path) -> None:
    root, other = draw_deep(tmp_path / "images", 16), draw_deep(tmp_path / "other", 12)
    (other / "light" / "0.png").rename(root / "light" / "0.png")
    data = data_of(root)
    assert [f.paths for f in find_problems(data) if f.kind == "dark"] == [("light/0.png",)]
    assert data.infos["light/0.png"].brightest < 16


@pytest.mark.slow
def test_test_split__of_another_depth_has_no_say(tmp_path: Path) -> None:
    root = tmp_path / "images"
    draw_deep(root / "train", 12)
    draw_deep(root / "test", 16)
    data = data_of(root)
    assert data.manifest.depth == 12
    assert {path.partition("/")[0] for path in odd(data)} == {"test"}


def test_8_bit_file__among_deep_ones_is_named(tmp_path: Path) -> None:
    root = draw_deep(tmp_path / "images", 12)
    Image.new("L", (40, 40), 200).save(root / "light" / "3.png")
    assert odd(data_of(root)) == {"light/3.png": "8 bits per sample, among images with 16"}


def test_16_bit_file__among_8_bit_ones_decides_for_itself(flat: Path) -> None:
    (draw_deep(flat.parent / "other", 12) / "light" / "0.png").rename(flat / "red" / "deep.png")
    data = data_of(flat)
    assert (data.manifest.depth, odd(data)) == (12, {})


@pytest.mark.parametrize(
    ("bits", "used"),
    [([12] * 9 + [16], 12), ([12] * 8 + [16], 16), ([12] * 9 + [14], 14), ([12] * 98 + [16] * 2, 12), ([], None)],
)
def test_used_depth__is_that_of_nearly_all(bits: list[int], used: int | None) -> None:
    assert used_depth(Samples(2**b - 1, 2**b - 1) for b in bits) == used


@pytest.mark.parametrize(
    ("bits", "depth", "differs"),
    [
        ([16], 12, "1 of 1 16-bit image with more than the 12 bits"),
        ([12] * 99 + [16], 12, "1 of 100 16-bit images with more than the 12 bits"),
        ([12], 16, "1 of 1 16-bit image with only 12 of the 16 bits"),
        ([12, 16], 16, "1 of 2 16-bit images with only 12 of the 16 bits"),
        ([10] * 10, 12, "10 of 10 16-bit images with only 10 of the 12 bits"),
        ([10] * 9, 12, None),
        ([12], 12, None),
        ([], 12, None),
    ],
)
def test_other_depth__of_new_images(bits: list[int], depth: int, differs: str | None) -> None:
    found = other_depth({str(name): Samples(2**b - 1, 2**b - 1) for name, b in enumerate(bits)}, depth)
    assert found is None if differs is None else str(found).startswith(differs)


@pytest.mark.slow
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
    tables, drawn = list[str](), list[dict[str, bytes]]()
    for source in (root, plain):
        out = tmp_path / f"of {source.name}"
        options = [f"source={source}", "topk=1", "annotate=true", f"output={out}"]
        tables.append(script("predict.py", f"ckpt_path={checkpoint}", *options).out.replace(str(source), ""))
        drawn.append({path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.jpg")})
    assert tables[0] == tables[1]
    assert "dark/0.png" in tables[0]
    assert drawn[0] == drawn[1]
    assert {"annotated/dark/0.png.jpg", "contact_sheets/1.jpg"} < drawn[0].keys()
    brighter = draw_deep(tmp_path / "brighter", 16)
    options = [f"ckpt_path={checkpoint}", f"data.root={brighter}", f"hydra.run.dir={tmp_path / 'tested'}"]
    assert "with more than the 12 bits that the classifier reads" in script("train.py", "task=test", *options).err
    (sprite,) = (tmp_path / "run" / "report").rglob("sprite.png")
    with Image.open(sprite) as image:
        assert np.percentile(np.asarray(image.convert("L")), 90) > 100, "thumbnails in TensorBoard"


@pytest.mark.slow
def test_audit_page__shows_images_as_they_are_read(tmp_path: Path) -> None:
    data = data_of(draw_deep(tmp_path / "images", 12))
    write_audit_page(RunFolder(tmp_path / "run"), data, [Finding("blurry", ("light/0.png",), "")], "compared")
    page = RunFolder(tmp_path / "run").page.read_text(encoding="utf-8")
    (content,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert np.asarray(image).mean() > 100


@pytest.mark.parametrize("kind", ["RGB", "RGBA"])
def test_colour__has_eight_bits_whatever_the_depth(tmp_path: Path, kind: str) -> None:
    """Pillow reads no more of 16 bits per channel; the documentation says so."""
    path = tmp_path / "colour.png"
    path.write_bytes(deep_png(np.full((4, 4, len(kind)), 0x8FFF, np.uint16)))
    with Image.open(path) as image:
        assert image.mode == kind
        assert (np.asarray(image) == 0x8F).all()
    found = np.asarray(read_rgb(path, 12))
    assert (found == np.asarray(read_rgb(path, 16))).all()
