"""The environment of other libraries: how they share cores, and folders for users who have no home, or no name."""

import getpass
import os

from headstart.files import folder_in_cache, usual_cache_folder


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
