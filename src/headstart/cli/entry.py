"""The command `headstart`: its first word chooses what the rest of the command line is for."""

import importlib
import sys
from importlib.metadata import version

PROGRAMS = {
    "train": "train a new head, test a checkpoint, audit a folder, sweep (train.py)",
    "predict": "predict the classes of images (predict.py)",
    "embed": "write the features of images",
}
USAGE = "usage: headstart COMMAND key=value …\n\n" + "".join(
    f"  headstart {name:<8} {says}\n" for name, says in PROGRAMS.items()
)


def main() -> None:
    """Runs the program that sys.argv names, with the arguments that follow."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"headstart {version('headstart')}")
        return
    if name in ("--help", "-h"):
        print(USAGE + "\nheadstart COMMAND --help explains each.")
        return
    if name not in PROGRAMS:
        sys.exit(f"error: headstart {name} is not a command: choose one of {', '.join(PROGRAMS)}")
    del sys.argv[1]
    importlib.import_module(f"headstart.cli.{name}").run()
