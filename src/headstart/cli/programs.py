"""Where programs find conf/, their output and their caches, and what they are called."""

import getpass
import os
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import headstart
from headstart.config.checks import VAGUE, meant_key, meant_keys
from headstart.files import folder_in_cache, usual_cache_folder

# Where conf/ is.


PACKAGE = Path(headstart.__file__).resolve().parent


def conf_folder() -> Path:
    """The repository's, or the copy that an installed package holds."""
    in_repository = PACKAGE.parents[1] / "conf"
    return in_repository if (in_repository / "train.yaml").is_file() else PACKAGE / "conf"


# Where the files of the program that runs go, for a caller in the same process.


_folder: ContextVar[Path] = ContextVar("output folder")


def remember_output(folder: Path) -> None:
    """Says where the files of a run or a sweep go."""
    _folder.set(folder)


def remembered_output() -> Path:
    """Where the files of the last one in this thread went."""
    return _folder.get()


# The environment of other libraries: how they share cores, and folders for users who have no home, or no name.


def share_cores() -> None:
    """Lets NumPy compute on one core, and Matplotlib draw without a display; must come before they are imported.

    Its threads spin while they wait for each other, and beside another program they wait long. The folds and draws of
    a report, which take longest, run in threads of headstart's own.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # All charts are files; that of a notebook, from which the program was started, need not be installed.
    os.environ["MPLBACKEND"] = "agg"


def use_writable_caches() -> None:
    """Sets the variables of libraries whose own choice of a folder cannot work; must come before they are imported."""
    if usual_cache_folder() is None:
        # The last is Triton's, which PyTorch compiles with on a GPU.
        _set("matplotlib", "MPLCONFIGDIR")
        _set("torch", "TORCH_HOME")
        _set("triton", "TRITON_CACHE_DIR")
    if not _has_name():
        _set("torchinductor", "TORCHINDUCTOR_CACHE_DIR")


def _set(name: str, variable: str) -> None:
    if not os.environ.get(variable):
        os.environ[variable] = str(folder_in_cache(name).absolute())


def _has_name() -> bool:
    try:
        return bool(getpass.getuser())
    except (ImportError, KeyError, OSError):
        return False


# What a script knows: its keys, and the options of conf/.


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
