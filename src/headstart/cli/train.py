"""train.py, and `headstart train`."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from headstart.cli.errors import INTO_RUN, exit_on_error, is_multirun, mark_if_new
from headstart.cli.main import HYDRA_TARGETS, Program, start
from headstart.cli.overrides import literal
from headstart.cli.programs import conf_folder, remember_output, use_writable_caches
from headstart.config.train import TrainSettings, check_train


@hydra.main(config_path=str(conf_folder()), config_name="train", execution_whitelist=HYDRA_TARGETS)
def _main(config: DictConfig) -> float | None:
    # Imported here because torch and Lightning take seconds, and reporting a typo should not.
    if is_multirun():
        use_writable_caches()
        from headstart.sweeping.trial import run_trial

        return run_trial(config)
    remember_output(Path(HydraConfig.get().runtime.output_dir))
    with exit_on_error():
        if config.get("task") not in INTO_RUN:
            mark_if_new(Path(HydraConfig.get().runtime.output_dir))
        settings = check_train(config)
        use_writable_caches()
        from headstart.data.images import allowed_pixels
        from headstart.pipeline import TASKS, check_without_data
        from headstart.training.jobs import several_processes
        from headstart.training.trainer import process_count

        settings = check_without_data(settings)
        count = process_count(settings) if settings.task == "train" else 1
        with several_processes(count, _arguments_of_others()), allowed_pixels(settings.data.max_pixels):
            result = TASKS[settings.task](settings)
    if not result:
        sys.exit(1)
    return None


def _arguments_of_others() -> list[str]:
    """The command line of further processes of the same run."""
    folder = HydraConfig.get().runtime.output_dir
    return [*sys.argv[1:], f"hydra.run.dir={literal(folder)}", "hydra.output_subdir=null"]


TRAIN = Program(_main, TrainSettings, "train")


def run() -> None:
    """Runs the command line in sys.argv."""
    start(TRAIN)
