"""The JSON Schemas of specs and placements, for editors. ``python -m model_repo.schema`` writes them anew."""

import json
from pathlib import Path
from typing import Final

from model_repo.placement import PLACEMENTS, Placement
from model_repo.spec import MODELS, ModelSpec

SCHEMAS: Final = {MODELS / "schema.json": ModelSpec, PLACEMENTS / "schema.json": Placement}
"""File → the value that it describes."""


def schema_text(path: Path) -> str:
    """What the schema file ``path``, one of ``SCHEMAS``, should hold."""
    return json.dumps(SCHEMAS[path].model_json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file in SCHEMAS:
        file.write_text(schema_text(file), encoding="utf-8")
