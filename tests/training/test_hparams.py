"""What TensorBoard shows of a run."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]


def test_plain_run__is_in_hparams_with_its_best_metrics(trained: Path) -> None:
    events = EventAccumulator(str(trained)).Reload()
    contents = [m.plugin_data for m in events.summary_metadata.values() if m.plugin_data.plugin_name == "hparams"]
    starts = [HParamsPluginData.FromString(content.content).session_start_info for content in contents]
    found: dict[str, Any] = {}
    for start in starts:
        found |= {key: value.number_value or value.string_value for key, value in start.hparams.items()}
    assert found["model.lr"] == 0.001
    assert found["model.arch"] == "shufflenet_v2_x0_5"
    assert found["finetune"] == "none"
    assert set(found) >= {"model.dropout", "model.hidden_dim", "model.weight_decay", "data.batch_size"}
    losses = [point.value for point in events.Scalars("valid/loss")]
    assert [point.value for point in events.Scalars("best/valid/loss")] == [min(losses[: n + 1]) for n in range(3)]


def test_charts__have_one_point_per_epoch(trained: Path) -> None:
    events = EventAccumulator(str(trained)).Reload()
    assert {tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"] if len(events.Scalars(tag)) != 3} == {}


def test_hparams_yaml__is_not_empty(trained: Path) -> None:
    for path in trained.rglob("hparams.yaml"):
        assert dict(OmegaConf.load(path))["model.arch"] == "shufflenet_v2_x0_5"
