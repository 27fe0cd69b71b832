"""Training with the feature store is the same computation as without it."""

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SMALL, Script, draw_classes
from runs import run_script

# Each runs whole trainings.
pytestmark = pytest.mark.slow

RULE = ("data.split.train=6", "data.split.valid=3", "model.lr=0.01", "trainer.max_epochs=4")


def train(script: Script, root: Path, run: Path, *overrides: str) -> tuple[list[dict[str, float]], str]:
    result = script("train.py", f"data.root={root}", *SMALL, *RULE, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err
    return rows_of(run), result.err


def rows_of(run: Path) -> list[dict[str, float]]:
    rows = list(csv.DictReader((run / "history.csv").open()))
    return [{name: float(value) for name, value in row.items()} for row in rows]


@dataclass(frozen=True)
class Cold:
    """A run that has stored its features in `features`."""

    folder: Path
    out: str

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def rows(self) -> list[dict[str, float]]:
        return rows_of(self.folder / "run")


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    """A run on the images of the fixture `flat`."""
    folder = tmp_path_factory.mktemp("cold")
    images, store = draw_classes(folder / "images", 12), f"features.dir={folder / 'features'}"
    options = (*SMALL, *RULE, store, f"hydra.run.dir={folder / 'run'}")
    result = run_script(folder, "train.py", f"data.root={images}", *options)
    assert result.status == 0, result.err
    return Cold(folder, result.out)


def test_cache__same_loss_curve_as_without(script: Script, flat: Path, tmp_path: Path) -> None:
    more = ("data.num_workers=2", "data.batch_size=5", "features.views=3")
    exact = ("features.precision=32", f"features.dir={tmp_path / 'features'}", *more)
    cold, _ = train(script, flat, tmp_path / "cold", *exact)
    warm, _ = train(script, flat, tmp_path / "warm", *exact)
    without, _ = train(script, flat, tmp_path / "without", *exact, "features.cache=false")
    assert cold == warm
    for ours, theirs in zip(cold, without, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    both = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("cold", "without")]
    for metrics in both:
        del metrics["seconds"]
    assert both[0] == pytest.approx(both[1], rel=1e-4)


def test_cache__resumed_with_it_as_an_uninterrupted_run_without(script: Script, flat: Path, tmp_path: Path) -> None:
    exact = ("features.precision=32", f"features.dir={tmp_path / 'features'}")
    train(script, flat, tmp_path / "part", *exact, "trainer.max_epochs=2")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    resumed, _ = train(script, flat, tmp_path / "resumed", *exact, f"ckpt_path={last}")
    without, _ = train(script, flat, tmp_path / "without", *exact, "features.cache=false")
    for ours, theirs in zip(resumed, without, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_cache__a_damaged_file_changes_nothing(script: Script, flat: Path, tmp_path: Path, cold: Cold) -> None:
    folder = f"features.dir={shutil.copytree(cold.features, tmp_path / 'features')}"
    (file,) = (tmp_path / "features").glob("*train*/view-0001.npy")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    again, err = train(script, flat, tmp_path / "again", folder)
    assert again == cold.rows
    assert f"warning: {file} is damaged; its features are computed again" in err


def test_cache__a_changed_image_is_encoded_again(script: Script, flat: Path, tmp_path: Path, cold: Cold) -> None:
    folder = f"features.dir={shutil.copytree(cold.features, tmp_path / 'features')}"
    (flat / "red" / "0.jpg").write_bytes((flat / "blue" / "0.jpg").read_bytes())
    changed, _ = train(script, flat, tmp_path / "changed", folder)
    fresh, _ = train(script, flat, tmp_path / "fresh", f"features.dir={tmp_path / 'new'}")
    assert changed == fresh


def test_cache__a_longer_run_adds_views(script: Script, flat: Path, tmp_path: Path) -> None:
    folder = f"features.dir={tmp_path / 'features'}"
    every_epoch = (folder, "features.views=null")
    train(script, flat, tmp_path / "short", *every_epoch, "trainer.max_epochs=2")
    files = {path: path.stat().st_ino for path in (tmp_path / "features").glob("*/view-*.npy")}
    train(script, flat, tmp_path / "long", *every_epoch, "model.dropout=0.1")
    after = {path: path.stat().st_ino for path in (tmp_path / "features").glob("*/view-*.npy")}
    assert files.items() <= after.items()
    assert len(after) == len(files) + 2


def test_run__says_where_the_time_went(cold: Cold) -> None:
    lines = [line for line in cold.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 4
    assert all(re.search(r"  \d+\.\d s$", line) and len(line) <= 80 for line in lines)
    assert re.search(r"time spent: encoding [\d.]+ s, waiting for batches [\d.]+ s, training [\d.]+ s", cold.out)
