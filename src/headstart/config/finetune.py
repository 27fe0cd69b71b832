"""conf/finetune: which stages of the backbone are trained, from the top, after how many epochs, and how fast."""

from dataclasses import dataclass

from headstart.config.constraints import constrained, non_negative, optional
from headstart.errors import HeadstartError


@dataclass
class FinetuneSettings:
    batch_norm: bool
    epochs: list[int] = constrained(  # noqa: RUF009
        "non-negative epochs in ascending order", lambda v: v == sorted(v) and all(e >= 0 for e in v)
    )
    lr_factors: list[float] = constrained("positive numbers", lambda v: all(0 < f < float("inf") for f in v))  # noqa: RUF009
    rest: int | None = optional("a non-negative epoch", lambda v: v >= 0)
    mixup: float = non_negative()
    cutmix: float = non_negative()

    @property
    def first_epoch(self) -> int | None:
        """After how many epochs any stage of the backbone is trained; None: it stays frozen."""
        return min(self._all_epochs(), default=None)

    @property
    def last_epoch(self) -> int | None:
        """After how many epochs every stage is trained that ever will be; None: the backbone stays frozen."""
        return max(self._all_epochs(), default=None)

    @property
    def kind(self) -> str:
        """ "none", "full" or "gradual", whatever the file in conf/finetune is called."""
        if self.first_epoch is None:
            return "none"
        return "full" if self.rest == 0 else "gradual"

    def _all_epochs(self) -> list[int]:
        return [*self.epochs, *([] if self.rest is None else [self.rest])]

    def check(self) -> None:
        """Raises HeadstartError where two values contradict each other."""
        if len(self.epochs) != len(self.lr_factors):
            raise HeadstartError(
                f"finetune.epochs={self.epochs} and finetune.lr_factors={self.lr_factors} must have the same length: "
                "one epoch and one factor for each stage to unfreeze"
            )
        if self.rest is not None and self.rest < max(self.epochs, default=0):
            raise HeadstartError(f"finetune.rest={self.rest} is invalid: the stages above are unfrozen later than that")
        for key, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if value and self.first_epoch is None:
                raise HeadstartError(
                    f"finetune.{key}={value} needs a backbone that is trained, because it mixes images and a frozen "
                    "backbone's features are cached: set finetune=full or finetune=gradual"
                )
