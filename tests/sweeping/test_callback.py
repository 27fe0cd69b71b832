from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from headstart.sweeping.callback import SweepCallback


def test_job__leaves_no_configs_in_memory() -> None:
    config = OmegaConf.create({"lr": 0.1})
    returned = JobReturn(cfg=config, hydra_cfg=config, _return_value=0.5, status=JobStatus.COMPLETED)
    SweepCallback().on_job_end(config, returned)
    assert returned.cfg is returned.hydra_cfg is None
    assert returned.return_value == 0.5
