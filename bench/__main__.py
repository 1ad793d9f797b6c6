"""What the project measures, into `bench/results.json`: `python -m bench [preview] [publish]`, both if none is named.

Each measurement is a ratio of what ran in turn in one run, so that what else the machine does falls on both.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import preview, publish

RESULTS = Path(__file__).parent / "results.json"
MEASURES: dict[str, Callable[[], dict[str, Any]]] = {"preview": preview.measure, "publish": publish.measure}


def main(names: list[str]) -> None:
    """Measure, and write each result as soon as it is there, beside those of other runs."""
    if unknown := set(names) - MEASURES.keys():
        sys.exit(f"{', '.join(sorted(unknown))}: nothing to measure; one of {', '.join(MEASURES)}")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    for name in names or MEASURES:
        results = json.loads(RESULTS.read_text())
        for key, result in MEASURES[name]().items():
            results[key] = {**result, "machine": machine}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {RESULTS.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
