"""Whether processes are still there."""

import psutil


def gone(pid: int) -> bool:
    """Whether no process of that number runs; one that has ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
