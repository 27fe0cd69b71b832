"""The command `headstart`, also `python -m headstart`: its first word chooses what the rest is for."""

import os
import sys
from importlib.metadata import version

from headstart.config.checks import nearest
from headstart.log import quoted
from headstart.run_folder import newest_run

PROGRAMS = {
    "train": "train a new head, or sweep: headstart train DIR",
    "resume": "continue a run: headstart resume RUN",
    "audit": "find what is wrong with a folder of images: headstart audit DIR",
    "compare": "rank backbones: headstart compare DIR ARCH ARCH …",
    "test": "score a run on the test split: headstart test RUN",
    "report": "write a run's report again: headstart report RUN",
    "review": "correct labels that look wrong, in a browser: headstart review RUN",
    "demo": "predict images in a browser: headstart demo RUN",
    "label": "choose the images to label next, and label them: headstart label RUN IMAGES",
    "export": "write a run for other runtimes: headstart export RUN",
    "predict": "predict the classes of images: headstart predict RUN IMAGES",
    "embed": "write the features of images: headstart embed RUN IMAGES output=DIR",
}
# Commands that are train.py with this task.
TASKS = ("audit", "compare", "test", "report", "review", "label", "demo", "export")
USAGE = "usage: headstart COMMAND key=value …\n\n" + "".join(
    f"  headstart {name:<8} {says}\n" for name, says in PROGRAMS.items()
)


def main() -> None:
    """Runs the program that sys.argv names, with the arguments that follow."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"headstart {version('headstart')}")
        return
    if name in ("--help", "-h", "help"):
        print(
            USAGE
            + "\nRUN is a run's folder, its name, or last, the newest one. headstart COMMAND --help explains each."
        )
        return
    if name not in PROGRAMS:
        sys.exit(f"error: headstart {name} is not a command{_hint(name)}")
    rest = sys.argv[2:]
    if name == "resume" and not rest:
        sys.exit(f"error: headstart resume needs a run: headstart resume RUN, such as {newest_run()}")
    sys.argv[1:] = [f"task={name}", *rest] if name in TASKS else rest
    # Imported here because Hydra takes a while, and help should not.
    from headstart.cli import main as programs

    programs.start({"predict": programs.PREDICT, "embed": programs.EMBED}.get(name, programs.TRAIN))


def _hint(name: str) -> str:
    if os.path.isdir(name):
        return f": did you mean headstart train {quoted(name)} or headstart audit {quoted(name)}?"
    return nearest(name, list(PROGRAMS))


if __name__ == "__main__":
    main()
