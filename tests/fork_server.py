"""Processes of the scripts that start in a moment: forked from one that has imported what they need.

Each is a process of its own, with its arguments, folder, environment and pipes, and runs the script from its beginning
to the end of the interpreter, as `python SCRIPT` does; only the imports have been done. Shells, terminals and torchrun
start them too, by the stand-in for `python` in `ForkServer.folder`.
"""

import gc
import importlib
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO

# The programs' modules, and the packages that these import when they first need them.
PRELOADED = (
    *("headstart.pipeline", "headstart.sweeping.trial", "headstart.sweeping.finalize", "headstart.predict.predictor"),
    *("rich.table", "scipy.stats", "torchmetrics.functional.classification", "tqdm"),
)
# The folder of a server has its socket and the stand-in for `python`, which starts scripts in it.
SOCKET, STAND_IN = "socket", "python"
SHELL = """#!/bin/sh
case "$1" in
*.py) exec {python} -SE {program} {folder} "$@" ;;
*) exec {python} "$@" ;;
esac
"""


def request(server: Path, command: list[str], folder: str, environment: dict[str, str], ends: tuple[int, ...]) -> int:
    """Has the server with the folder `server` start a process, and returns its id.

    Its output, its errors and, when it has ended, its exit status go to the file descriptors `ends`.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server / SOCKET))
        socket.send_fds(connection, [b"start"], ends)
        connection.sendall(json.dumps([command, folder, environment, limits]).encode() + b"\n")
        return int(connection.recv(32))


class Process:
    """A forked process, with the part of subprocess.Popen that the tests use."""

    def __init__(self, server: Path, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        (out, out_end), (err, err_end), (status, status_end) = (os.pipe() for _ in range(3))
        self.pid = request(server, command, str(folder), environment, (out_end, err_end, status_end))
        for end in (out_end, err_end, status_end):
            os.close(end)
        self.stdout, self.stderr, self._status = (os.fdopen(read) for read in (out, err, status))
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """As `returncode`: None until the process has ended."""
        has_ended = self.returncode is None and select.select([self._status], [], [], 0)[0]
        return self.wait() if has_ended else self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """The output and the errors that have not been read yet, when the process has ended."""
        texts: dict[IO[str], str] = {}

        def read(file: IO[str]) -> None:
            texts[file] = file.read()

        readers = [threading.Thread(target=read, args=[file], daemon=True) for file in (self.stdout, self.stderr)]
        end = time.monotonic() + timeout
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(0.0, end - time.monotonic()))
        if len(texts) < 2:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        self.wait()
        return texts[self.stdout], texts[self.stderr]


class ForkServer:
    """The process that has done the imports."""

    def __init__(self) -> None:
        # Of a short name, for a socket's may have no more than a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="forks-"))
        text = SHELL.format(python=sys.executable, program=__file__, folder=self.folder)
        (self.folder / STAND_IN).write_text(text)
        (self.folder / STAND_IN).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.folder / SOCKET))
            listener.listen()
            command = [sys.executable, __file__, str(listener.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[listener.fileno()], stdin=subprocess.PIPE)

    @property
    def python(self) -> str:
        """Returns the program that starts a script as `python SCRIPT` does."""
        return str(self.folder / STAND_IN)

    def start(self, *command: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> Process:
        """Runs a script with arguments, in `folder` or the current one, with `environment` or the current one."""
        return Process(self.folder, list(command), folder or Path.cwd(), environment or dict(os.environ))

    def run(
        self,
        *command: str,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        timeout: float = 240,
    ) -> "subprocess.CompletedProcess[str]":
        """As `start`, to its end."""
        process = self.start(*command, folder=folder, environment=environment)
        out, err = process.communicate(timeout)
        return subprocess.CompletedProcess(command, process.wait(), out, err)

    def close(self) -> None:
        self._process.communicate()
        shutil.rmtree(self.folder)


def _serve(listener: socket.socket) -> list[str]:
    """Forks a process for each request, and returns in each of these, with the command it is to run."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        _, ends, *_ = socket.recv_fds(connection, 16, 3)
        _reap(os.WNOHANG)
        if os.fork() == 0:
            listener.close()
            return _watched(connection, *ends)
        connection.close()
        for end in ends:
            os.close(end)
    # Who started it has closed its input, or is gone.
    _reap(0)
    sys.exit()


def _reap(options: int) -> None:
    try:
        while os.waitpid(-1, options)[0]:
            pass
    except ChildProcessError:
        pass


def _watched(connection: socket.socket, out: int, err: int, status: int) -> list[str]:
    """Forks the process, in which alone this returns, and waits to tell its exit status."""
    with connection, connection.makefile() as lines:
        command, folder, environment, (soft, hard) = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            connection.sendall(str(pid).encode())
    if pid:
        os.close(out)
        os.close(err)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, f"{code}\n".encode())
        os._exit(0)
    os.close(status)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _become(folder, environment, out, err)
    return list(command)


def _become(folder: str, environment: dict[str, str], out: int, err: int) -> None:
    """Gives this process what a shell gives one that it starts."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # It has read the environment when it was imported.
    rank_zero = importlib.import_module("lightning_fabric.utilities.rank_zero")
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    # Of the kind of the new files: the old ones were opened on what the server has.
    sys.stdout = os.fdopen(1, "w", -1 if "PYTHONUNBUFFERED" not in environment else 1, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _stand_in(server: Path, command: list[str]) -> None:
    """Runs a script in the server, and ends as it does; what tells this process to end, tells the script's."""
    status, end = os.pipe()
    pid = request(server, command, os.getcwd(), dict(os.environ), (1, 2, end))
    os.close(end)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    with os.fdopen(status) as line:
        code = int(line.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _stand_in(Path(sys.argv[1]), sys.argv[2:])
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
