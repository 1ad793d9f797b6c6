"""Progress of what moves many bytes: a bar with rate and time left on a terminal, a line every 5 s in a log."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock

from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cli.steps import console

_LINE_SECONDS = 5.0


@contextmanager
def transfer(title: str, size_bytes: int) -> Generator[Callable[[int], None]]:
    """Show how far a transfer is; yields a function that takes the bytes done since its last call, from any thread.

    Args:
        title: What is done to what.
        size_bytes: All of it.
    """
    bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    columns = (*bar, TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=size_bytes)
        started = last_line = time.monotonic()
        lock = Lock()

        def advance(done_bytes: int) -> None:
            nonlocal last_line
            with lock:
                progress.advance(task, done_bytes)
                now, done = time.monotonic(), progress.tasks[0].completed
                if console.is_terminal or now - last_line < _LINE_SECONDS:
                    return
                last_line, rate = now, done / (now - started)
            left = f"{(size_bytes - done) / rate:.0f} s left" if rate else ""
            shown = f"{decimal(int(done))} of {decimal(size_bytes)}, {decimal(int(rate))}/s, {left}"
            console.print(f"  {now - started:5.1f} s  {title}: {shown}", highlight=False, markup=False)

        yield advance
    console.print(f"[green]✓[/] {title} [dim]({time.monotonic() - started:.1f} s)[/]", highlight=False)
