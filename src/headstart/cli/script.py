"""What a script knows: its keys, and the options of conf/."""

import os
from dataclasses import dataclass
from pathlib import Path

from headstart.config.folder import conf_folder
from headstart.config.suggest import VAGUE, meant_key, meant_keys

GROUPS = (
    *("data", "model", "features", "trainer", "finetune", "augment", "callbacks", "logger", "sweep", "experiment"),
)
# Keys of train.py besides those of its settings.
MORE = ("hydra.run.dir", "callbacks.early_stopping.patience")


@dataclass(frozen=True)
class Script:
    """One of the two scripts, its keys, and the folder conf/, None if another one is used."""

    name: str
    known: tuple[str, ...]
    conf: Path | None

    @property
    def trains(self) -> bool:
        """Whether it is train.py."""
        return self.name == "train.py"

    def has_group(self, name: str) -> bool:
        """Whether it is one of the groups of conf/."""
        return self.trains and name in GROUPS

    def options(self, group: str) -> list[str]:
        """The options of a group of conf/; none if they are not known."""
        return options_of(group, self.conf) if self.conf is not None else []

    def meant(self, name: str) -> str | None:
        """The key that people mean by `name`."""
        return meant_key(name, [*self.known, *(MORE if self.trains else ())])

    def meant_all(self, name: str) -> list[str]:
        """The keys that people may mean by `name`: one, if it is certain."""
        return meant_keys(name, [*self.known, *(MORE if self.trains else ())])

    def is_name(self, word: str) -> bool:
        """Whether a bare word looks like the name of a setting."""
        if word in self.known or self.has_group(word):
            return True
        group, dot, _ = word.partition(".")
        # Otherwise best.ckpt would be the key that people mean by ckpt.
        is_name = not dot or any(key.startswith(f"{group}.") for key in self.known)
        return is_name and self.meant(word) is not None and word.lower() not in VAGUE and not os.path.exists(word)


def options_of(group: str, conf: Path | None = None) -> list[str]:
    """The options of a group of conf/, or of another such folder."""
    return sorted(path.stem for path in ((conf or conf_folder()) / group).glob("*.yaml"))
