"""Processes of the scripts that start in a moment: forked from one that has imported what they need.

Each is a process of its own, with its arguments, folder, environment and pipes, and runs the script from its beginning
to the end of the interpreter, as `python SCRIPT` does; only the imports have been done. Programs whose environment is
read by an import, such as those of torchrun, are not for it.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

PRELOADED = (
    "headstart.pipeline",
    "headstart.pipeline",
    "headstart.sweeping.trial",
    "headstart.predict.predictor",
)


class Process:
    """A forked process, with the part of subprocess.Popen that the tests use."""

    def __init__(self, server: socket.socket, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        (out, out_end), (err, err_end), (status, status_end) = (os.pipe() for _ in range(3))
        own, theirs = socket.socketpair()
        with own, theirs:
            socket.send_fds(server, [b"start"], [theirs.fileno(), out_end, err_end, status_end])
            for end in (out_end, err_end, status_end):
                os.close(end)
            own.sendall(json.dumps([command, str(folder), environment]).encode() + b"\n")
            self.pid = int(own.recv(32))
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
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def start(self, *command: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> Process:
        """Runs a script with arguments, in `folder` or the current one, with `environment` or the current one."""
        return Process(self._socket, list(command), folder or Path.cwd(), environment or dict(os.environ))

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
        self._socket.close()
        self._process.wait()


def _serve(requests: socket.socket) -> list[str]:
    """Forks a process for each request, and returns in each of these, with the command it is to run."""
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 16, 4)
        _reap(os.WNOHANG if message else 0)
        if not message:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            return _watched(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(options: int) -> None:
    try:
        while os.waitpid(-1, options)[0]:
            pass
    except ChildProcessError:
        pass


def _watched(client: int, out: int, err: int, status: int) -> list[str]:
    """Forks the process, in which alone this returns, and waits to tell its exit status."""
    with socket.socket(fileno=client) as connection, connection.makefile() as lines:
        command, folder, environment = json.loads(lines.readline())
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
    # Of the kind of the new files: the old ones were opened on what the server has.
    sys.stdout = os.fdopen(1, "w", -1 if "PYTHONUNBUFFERED" not in environment else 1, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
