import inspect

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping

from headstart.config.checks import parameters_of
from headstart.config.lightning import TRAINER


def test_parameters_of__same_as_inspect_finds() -> None:
    assert set(parameters_of(TRAINER) or ()) == set(inspect.signature(Trainer).parameters)
    name = "pytorch_lightning.callbacks.early_stopping.EarlyStopping"
    assert set(parameters_of(name) or ()) == set(inspect.signature(EarlyStopping).parameters)


def test_parameters_of__none_for_unknown_and_re_exported_classes() -> None:
    assert parameters_of("no.such.Class") is None
    assert parameters_of("pytorch_lightning.Trainer") is None
