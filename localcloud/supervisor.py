"""Background processes that outlive the command that started them, and that a later command finds, heals or stops.

Each process leads a session of its own and has a record, `<state>/pids/<name>.json`. The record holds the time at which
the process was created, so that another process that was given the same pid later is never touched.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from localcloud.toolchain import replace_file, tail

_POLL_SECONDS = 0.05
_TERMINATE_SECONDS = 5.0
_CLOCK_SECONDS = 2.0  # the kernel keeps creation times since boot, and its boot time moves when the clock is set

# The processes that this one started, by pid: the parent takes the exit code, through whichever supervisor.
_children: dict[int, subprocess.Popen[bytes]] = {}


class SupervisorError(RuntimeError):
    """A process could not be started, died, or is not ready in time; the text says why and where its log is."""


@dataclass(frozen=True)
class Program:
    """A process to run: what it is called, how it starts, and when it can be used."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool] = lambda: True
    """Whether it answers; called while it starts, and again to see whether it is healthy. Never raises."""
    ports: tuple[int, ...] = ()
    """Ports on 127.0.0.1 that it listens on: they must be free before it starts."""
    deadline_seconds: float = 60.0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables beside those of this process."""


@dataclass(frozen=True)
class _Record:
    pid: int
    create_time: float
    argv: list[str]

    def is_of(self, process: psutil.Process) -> bool:
        return abs(process.create_time() - self.create_time) < _CLOCK_SECONDS


class Supervisor:
    """Starts and stops the processes of one state folder.

    Args:
        state: folder for the records (`pids/`) and the logs (`logs/`); made when needed.
    """

    def __init__(self, state: Path) -> None:
        self.state = state

    def bring_up(self, programs: Iterable[Program]) -> list[str]:
        """Start what does not run, wait until all are ready; return the names of what was started.

        Raises:
            SupervisorError: a port is in use, or a program is missing, died or is not ready in time.
        """
        started = [program.name for program in programs if self.start(program)]
        for program in programs:
            self.wait(program)
        return started

    def start(self, program: Program) -> bool:
        """Start the process unless it runs already with the same arguments; return whether it was started.

        Raises:
            SupervisorError: one of its ports is in use, or the program is not there.
        """
        record = self._record(program.name)
        if record and _leader(record) and record.argv == list(program.argv):
            return False
        self.stop([program.name])
        for port in program.ports:
            _check_free(port, program.name)
        for file in (self._log(program.name), self._file(program.name)):
            file.parent.mkdir(parents=True, exist_ok=True)
        with self._log(program.name).open("ab") as output, _interrupt_deferred():
            try:
                child = subprocess.Popen(
                    program.argv,
                    cwd=self.state,
                    env={**os.environ, **program.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise SupervisorError(f"{program.name}: cannot run {program.argv[0]}: {error.strerror}") from error
            _children[child.pid] = child
            record = _Record(child.pid, psutil.Process(child.pid).create_time(), list(program.argv))
            replace_file(self._file(program.name), json.dumps(vars(record), indent=2), 0o644)
        return True

    def wait(self, program: Program) -> None:
        """Wait until a started process is ready.

        Raises:
            SupervisorError: it died, or was not ready in time.
        """
        deadline = time.monotonic() + program.deadline_seconds
        while (died := not self.alive(program.name)) or not program.ready():
            if died or time.monotonic() > deadline:
                late = f"is not ready after {program.deadline_seconds:.0f} s"
                log, how = self._log(program.name), f"died{self._exit(program.name)}" if died else late
                raise SupervisorError(f"{program.name} {how}\n{tail(log)}\nlog: {log}")
            time.sleep(_POLL_SECONDS)

    def alive(self, name: str) -> bool:
        """Whether the process that was started under this name still runs."""
        record = self._record(name)
        return record is not None and _leader(record) is not None

    def status(self, program: Program) -> tuple[str, str, str]:
        """The process's name, state (`running`, `not ready` or `stopped`), and its id and ports, or its log."""
        record = self._record(program.name)
        if record is None or _leader(record) is None:
            return program.name, "stopped", f"log: {self._log(program.name)}"
        where = ", ".join(f"127.0.0.1:{port}" for port in program.ports)
        return program.name, "running" if program.ready() else "not ready", f"pid {record.pid} {where}".strip()

    def names(self) -> list[str]:
        """Names of the processes that were started and not stopped, dead or alive."""
        return sorted(file.stem for file in (self.state / "pids").glob("*.json"))

    def stop(self, names: Iterable[str]) -> None:
        """Stop processes, together with every process of their sessions: ask first, kill what has not gone in 5 s."""
        records = {name: record for name in names if (record := self._record(name))}
        leaders = [leader for record in records.values() if (leader := _leader(record))]
        # Before the leaders go, for those that they start until then, and after.
        members = {member for record in records.values() for member in _members(record)}
        for leader in leaders:
            with suppress(psutil.NoSuchProcess):
                leader.terminate()
        _wait_until_gone(leaders)
        members |= {member for record in records.values() for member in _members(record)}
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        _wait_until_gone(members)
        for name, record in records.items():
            self._file(name).unlink(missing_ok=True)
            if child := _children.pop(record.pid, None):
                child.wait()

    def _log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def _file(self, name: str) -> Path:
        return self.state / "pids" / f"{name}.json"

    def _record(self, name: str) -> _Record | None:
        with suppress(FileNotFoundError):
            return _Record(**json.loads(self._file(name).read_text()))
        return None

    def _exit(self, name: str) -> str:
        record = self._record(name)
        child = _children.get(record.pid) if record else None
        return f" (exit code {child.wait()})" if child else ""


@contextmanager
def _interrupt_deferred() -> Generator[None]:
    """Let Ctrl-C wait until a process that was started is on record."""
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        for number in received:
            signal.raise_signal(number)


def _leader(record: _Record) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(record.pid)
        return process if record.is_of(process) and _runs(process) else None
    return None


def _members(record: _Record) -> list[psutil.Process]:
    """Every process of the session that the recorded process led, itself included, dead leader or not.

    The kernel gives no new process the id of a session that still has members: where another process has the id, or the
    machine was started anew since, none is left.
    """
    with suppress(psutil.NoSuchProcess):
        if record.create_time < psutil.boot_time() - _CLOCK_SECONDS or not record.is_of(psutil.Process(record.pid)):
            return []
    return [process for process in psutil.process_iter() if _session(process.pid) == record.pid]


def _session(pid: int) -> int | None:
    with suppress(OSError):  # it has gone, or is another user's
        return os.getsid(pid)
    return None


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; a zombie has, and only its parent, which may be slow, can remove it."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    deadline = time.monotonic() + _TERMINATE_SECONDS
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def answers(url: str, session: requests.Session | None = None) -> bool:
    """Whether an HTTP server on loopback answers without an error: for `Program.ready`."""
    try:
        return (session or loopback_session()).get(url, timeout=5).ok
    except requests.RequestException:
        return False


def loopback_session() -> requests.Session:
    """An HTTP client that no proxy of the environment comes between."""
    session = requests.Session()
    session.trust_env = False
    return session


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1 at this port now."""
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def _check_free(port: int, name: str) -> None:
    if port_is_free(port):
        return
    holders = (
        f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:] == (port,)
    )
    holder = next(holders, "a process that this user may not see")
    raise SupervisorError(
        f"port {port} on 127.0.0.1, which {name} needs, is in use by {holder}: stop that process, or, if it is of "
        "another checkout's local cloud, run `make down` there"
    )
