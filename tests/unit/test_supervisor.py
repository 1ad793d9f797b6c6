"""The supervisor, on small real processes."""

import json
import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from localcloud.supervisor import Program, Supervisor, SupervisorError, port_is_free

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def program(argv: tuple[str, ...] = SLEEP, *, ready: bool = True, ports: tuple[int, ...] = ()) -> Program:
    return Program(
        name="sleeper", argv=argv, ready=lambda: ready, ports=ports, deadline_seconds=0.3 if not ready else 10
    )


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture
def supervisor(tmp_path: Path):
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop(supervisor.names())


def recorded_pid(state: Path) -> int:
    return json.loads((state / "pids" / "sleeper.json").read_text())["pid"]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_started_process_is_not_started_again(supervisor: Supervisor):
    assert supervisor.start(program())
    assert not supervisor.start(program())
    assert supervisor.alive("sleeper")


def test_a_later_command_finds_and_stops_what_an_earlier_one_started(supervisor: Supervisor, tmp_path: Path):
    supervisor.start(program())
    pid = recorded_pid(tmp_path)

    later = Supervisor(tmp_path)
    assert later.names() == ["sleeper"]
    assert not later.start(program())
    later.stop(["sleeper"])

    assert not runs(pid)
    assert later.names() == []


def test_a_killed_process_is_started_anew(supervisor: Supervisor, tmp_path: Path):
    supervisor.start(program())
    killed = psutil.Process(recorded_pid(tmp_path))
    killed.kill()
    killed.wait()

    assert not supervisor.alive("sleeper")
    assert supervisor.start(program())
    assert recorded_pid(tmp_path) != killed.pid
    assert supervisor.alive("sleeper")


def test_a_process_whose_arguments_changed_is_replaced(supervisor: Supervisor, tmp_path: Path):
    supervisor.start(program())
    before = recorded_pid(tmp_path)
    assert supervisor.start(program(python("import time; time.sleep(61)")))
    assert not runs(before)


def test_stopping_ends_the_processes_that_it_started_even_if_it_died_itself(supervisor: Supervisor, tmp_path: Path):
    note = tmp_path / "child"
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    started = Program(name="sleeper", argv=python(code), ready=lambda: note.exists() and note.read_text() != "")
    supervisor.start(started)
    supervisor.wait(started)
    child = int(note.read_text())
    leader = psutil.Process(recorded_pid(tmp_path))
    leader.kill()
    leader.wait()
    assert runs(child)

    supervisor.stop(["sleeper"])

    assert not runs(child)


def test_a_process_that_ignores_the_request_to_end_is_killed(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("localcloud.supervisor._TERMINATE_SECONDS", 0.3)
    note = tmp_path / "deaf"
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(note)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    deaf = Program(name="sleeper", argv=python(code), ready=note.exists)
    supervisor.start(deaf)
    supervisor.wait(deaf)
    pid = recorded_pid(tmp_path)
    supervisor.stop(["sleeper"])
    assert not runs(pid)


def test_another_process_with_the_recorded_pid_is_left_alone(supervisor: Supervisor, tmp_path: Path):
    bystander = psutil.Popen(SLEEP, start_new_session=True)
    record = tmp_path / "pids" / "sleeper.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"pid": bystander.pid, "create_time": bystander.create_time() - 60, "argv": [*SLEEP]}))

    assert not supervisor.alive("sleeper")
    supervisor.stop(["sleeper"])

    assert runs(bystander.pid)
    assert not record.exists()
    bystander.kill()
    bystander.wait()


def test_a_port_in_use_is_refused_with_its_holder(supervisor: Supervisor):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free(port)
        with pytest.raises(SupervisorError) as refused:
            supervisor.start(program(ports=(port,)))
    message = str(refused.value)
    assert f"port {port} on 127.0.0.1, which sleeper needs, is in use by process {os.getpid()}" in message
    assert "make down" in message
    assert supervisor.names() == []
    assert port_is_free(port)


def test_a_process_that_dies_is_reported_with_its_last_words(supervisor: Supervisor):
    dies = program(python("import sys; print('no such region'); sys.exit(3)"), ready=False)
    supervisor.start(dies)
    with pytest.raises(SupervisorError, match=r"(?s)sleeper died \(exit code 3\).*no such region.*log: .*sleeper\.log"):
        supervisor.wait(Program(name="sleeper", argv=dies.argv, ready=lambda: False))


def test_a_process_that_is_late_is_reported(supervisor: Supervisor):
    late = program(ready=False)
    supervisor.start(late)
    with pytest.raises(SupervisorError, match="sleeper is not ready after 0 s"):
        supervisor.wait(late)
    assert supervisor.status(late)[1] == "not ready"


def test_a_missing_program_is_reported(supervisor: Supervisor):
    with pytest.raises(SupervisorError, match="sleeper: cannot run /nowhere/etcd: No such file"):
        supervisor.start(program(("/nowhere/etcd",)))
