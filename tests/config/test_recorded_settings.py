"""Settings that an older version recorded, which lack the keys that are new."""

from dataclasses import asdict

from conftest import SMALL, settings_of
from omegaconf import OmegaConf

from headstart.config.data import ColumnSettings
from headstart.config.model import RECIPE, ExportSettings
from headstart.config.train import check_train, literals


def test_recorded_settings__of_an_older_version_get_the_defaults_of_new_keys() -> None:
    values = literals(asdict(settings_of(*SMALL, "data.root=DIR")))
    del values["evaluation"], values["export"], values["augment"], values["sweep"]["ensemble"]
    for key in ("pooling", "head", "archs"):
        del values["model"][key]
    for key in ("csv", "columns", "group", "folds", "fold", "resize_mode", "depth", "max_pixels"):
        del values["data"][key]
    found = check_train(OmegaConf.create(values))
    assert (found.evaluation.views, found.sweep.ensemble) == (1, 0)
    assert found.augment.transforms == RECIPE
    assert found.export == ExportSettings()
    assert (found.data.csv, found.data.group, found.data.folds, found.data.fold) == (None, None, None, None)
    assert (found.data.resize_mode, found.data.depth) == (None, "auto")
    assert found.data.columns == ColumnSettings("path", "label", "auto")
    assert (found.model.pooling, found.model.head, found.model.archs) == ("default", "mlp", None)
