import inspect

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping

from headstart.settings import TRAINER
from headstart.signatures import parameters_of


def test_parameters_of__are_those_that_python_sees() -> None:
    assert parameters_of(TRAINER) == set(inspect.signature(Trainer).parameters)
    name = "pytorch_lightning.callbacks.early_stopping.EarlyStopping"
    assert parameters_of(name) == set(inspect.signature(EarlyStopping).parameters)


def test_parameters_of__unknown_where_the_source_does_not_tell() -> None:
    assert parameters_of("no.such.Class") is None
    assert parameters_of("pytorch_lightning.Trainer") is None
