"""Progress of a command: a line a step, with a spinner and the elapsed time while it runs."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True)
"""Progress goes to standard error: standard output is for what a script reads."""


@contextmanager
def step(title: str) -> Generator[Callable[[str], None]]:
    """Show a step while it runs, and how long it took; yields a function that says what it is at."""
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title)

        def report(text: str) -> None:
            progress.update(task, description=f"{title}: {text}")
            if not console.is_terminal:
                # A log has no spinner: what would stand beside it is a line there.
                console.print(f"  {time.monotonic() - started:5.1f} s  {text}", highlight=False, markup=False)

        yield report
    console.print(f"[green]✓[/] {title} [dim]({time.monotonic() - started:.1f} s)[/]", highlight=False)
