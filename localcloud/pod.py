"""A process in a network namespace of its own, which only our relays reach.

Triton's SageMaker listener binds every interface whatever its address options say, and so do the arguments of a
Kubernetes Deployment. In a namespace that has only a loopback interface that is harmless: both run unchanged.

A socket belongs to the namespace that it was made in. So the host makes a listener for each port that it wants to reach
and hands it to the pod, which accepts there and connects inside; and the pod makes a listener for each port of the host
that its command needs, and hands it out. Nothing lies in the file system, and nothing is left behind.

The pod lives as long as the host holds its control socket open: however the host ends, the kernel closes it.
:class:`Pod` is the host's side; this file, run as a program, is the inside.
"""

import asyncio
import fcntl
import functools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
Address = tuple[str, int]
"""A host and a port."""

_NOWHERE = (LOOPBACK, 0)
_INSIDE = (sys.executable, "-I", __file__)  # isolated from the environment, which is the command's
# Found here, not on the PATH of the command's environment.
_SETPRIV = shutil.which("setpriv", path=os.defpath) or "setpriv"
_UNSHARE = (shutil.which("unshare") or "false", "--user", "--map-root-user", "--net", "--")
_GRACE_SECONDS = 35
"""More than the 30 s that Triton gives requests in flight at its exit by default (``--exit-timeout-secs``)."""


class PodError(RuntimeError):
    """A process that could not be started in a pod."""


class Pod:
    """A running pod.

    Args:
        argv: The command to run inside.
        environment: Its whole environment.
        ports: Ports inside that the host reaches through :attr:`addresses`.
        outbound: Ports of the host's loopback that the command finds on its own loopback.
        log: File that the command's output is appended to.

    Raises:
        PodError: The pod did not start; the text has what it said.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        ports: Sequence[int],
        log: Path,
        outbound: Sequence[int] = (),
    ) -> None:
        isolated = isolation_refused() is None
        self._control, inner = socket.socketpair()
        listeners = {port: socket.create_server((LOOPBACK, 0)) for port in ports}
        self.addresses: dict[int, Address] = {port: sock.getsockname() for port, sock in listeners.items()}
        """Where the host reaches each port inside."""
        inside = {
            "argv": list(argv),
            "control": inner.fileno(),
            "inbound": [(sock.fileno(), port) for port, sock in listeners.items()],
            "outbound": list(outbound) if isolated else None,  # without a namespace the host's ports are there
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*(_UNSHARE if isolated else ()), *_INSIDE, json.dumps(inside)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[inner.fileno(), *(sock.fileno() for sock in listeners.values())],
            )
        for sock in (inner, *listeners.values()):
            sock.close()
        started, descriptors, _, _ = socket.recv_fds(self._control, 32, len(outbound))
        if not started:
            self.stop()
            raise PodError(f"{argv[0]} did not start. {log} ends with: {log.read_text()[-500:]}")
        self.pid = int(started)
        """The process id of the command, as the host sees it."""
        for descriptor, port in zip(descriptors, outbound, strict=False):
            relay_in_background(socket.socket(fileno=descriptor), lambda port=port: (LOOPBACK, port))

    @property
    def alive(self) -> bool:
        """Whether the command runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait for the command's end."""
        self._process.wait()

    def stop(self) -> None:
        """Stop the command, first kindly; returns when it is gone."""
        self._control.close()
        try:
            self._process.wait(_GRACE_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the command dies with it, see _run
            self._process.wait()


@functools.cache
def isolation_refused() -> str | None:
    """Why this machine gives no network namespace of one's own, or None if it does.

    Some distributions and container runtimes forbid them to ordinary users. A pod is then an ordinary process: the
    caller must keep its command to the loopback address.
    """
    result = subprocess.run([*_UNSHARE, *_INSIDE], capture_output=True, text=True, check=False)
    said = result.stderr.strip().rpartition("\n")[2]
    return None if result.returncode == 0 else said or "the command unshare (util-linux) is missing or failed"


def free_port() -> int:
    """A port of the host's loopback on which nobody listens."""
    with socket.create_server((LOOPBACK, 0)) as sock:
        return sock.getsockname()[1]


def relay_in_background(listener: socket.socket, destination: Callable[[], Address | None]) -> Callable[[], None]:
    """Relay as :func:`relay` does, in a thread of this process; return what ends it."""
    loop = _background_loop()
    server = asyncio.run_coroutine_threadsafe(relay(listener, destination), loop).result()
    return lambda: loop.call_soon_threadsafe(server.close) and None


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


async def relay(listener: socket.socket, destination: Callable[[], Address | None]) -> asyncio.Server:
    """Accept at ``listener`` and join each connection to a new one to ``destination()``; None refuses it."""

    # The loop refers to its tasks weakly: one that nothing else refers to may be collected while it waits.
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_join(reader, writer, destination()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return await asyncio.start_server(accept, sock=listener)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, destination: Address | None) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection(*(destination or _NOWHERE))
    except OSError:  # nobody listens there yet: the client sees its connection closed
        writer.close()
        return
    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
    writer.close()
    far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:  # one side is gone: the other must learn it
        writer.close()


async def _run(argv: list[str], control: int, inbound: list[tuple[int, int]], outbound: list[int] | None) -> int:
    """The inside of a pod; ``outbound`` is None where there is no namespace."""
    host = socket.socket(fileno=control)
    if outbound is not None:
        _bring_loopback_up()
    listeners = [socket.create_server((LOOPBACK, port)) for port in outbound or ()]
    for descriptor, port in inbound:
        await relay(socket.socket(fileno=descriptor), lambda port=port: (LOOPBACK, port))
    # setpriv: should this process be killed outright, the kernel kills the command too.
    command = await asyncio.create_subprocess_exec(_SETPRIV, "--pdeathsig", "KILL", *argv)
    socket.send_fds(host, [str(command.pid).encode()], [listener.fileno() for listener in listeners])
    stop = asyncio.Event()
    # Readable only at its end: the host says nothing.
    asyncio.get_running_loop().add_reader(host, stop.set)
    ended, stopped = asyncio.create_task(command.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        command.terminate()
        await asyncio.wait({ended}, timeout=_GRACE_SECONDS)
    if not ended.done():
        command.kill()
    return await ended


def _bring_loopback_up() -> None:
    """``ip link set lo up``, by the ioctl of netdevice(7)."""
    set_flags, up, running = 0x8914, 0x1, 0x40
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, set_flags, struct.pack("16sh14x", b"lo", up | running))


if __name__ == "__main__":
    if len(sys.argv) == 1:  # the question of isolation_refused
        _bring_loopback_up()
    else:
        exit_status = asyncio.run(_run(**json.loads(sys.argv[1])))
        os._exit(exit_status & 0xFF)  # relays with open connections must not hold it back
