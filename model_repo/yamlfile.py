"""A value read from a YAML file, and one line for each thing that is wrong with it."""

import json
from functools import cache, reduce
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_SHORT: Final = 60


class SpecError(ValueError):
    """A file that does not exist or does not hold: one line an error."""


Value = TypeVar("Value", bound=BaseModel)


def read_value(path: Path, kind: type[Value], examples: Path) -> Value:
    """Read one file, whose name must be the value's.

    Args:
        path: of the file.
        kind: of the value; it has a ``name``.
        examples: folder of files of the same kind, which are known to hold.

    Raises:
        SpecError: the file cannot be read or its content does not hold: one line an error.
    """
    try:
        # Through JSON, so that strict types still let a list be a tuple.
        content = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str)
    except (OSError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(printable(f"{path.name}: cannot be read as YAML: {reason}")) from error
    try:
        value = kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise SpecError("\n".join(error_lines(error, path.name, examples))) from error
    name = cast("Any", value).name
    if name != path.stem:
        raise SpecError(f"{path.name}: name: {json.dumps(name)} must be the name of the file, {path.stem}")
    return value


def error_lines(error: ValidationError, name: str, examples: Path) -> list[str]:
    """One line for each error: where it is, why it is wrong, and a value that works from the files of ``examples``."""
    return [printable(f"{name}: {_line(detail, examples)}") for detail in error.errors()]


def printable(line: str) -> str:
    """One line on any terminal, whatever a key or a value of a user's file holds."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _line(error: ErrorDetails, examples: Path) -> str:
    # Of the sections that have kinds, pydantic puts the kind into the path.
    location = error["loc"]
    path = [str(part) for place, part in enumerate(location) if place != 1 or location[0] not in {"source", "pipeline"}]
    why = error["msg"].removeprefix("Value error, ")
    if not path:
        return why
    line = ".".join(path)
    if error["type"] == "extra_forbidden":
        keys = _keys(_example(path[:-1], examples))
        return f"{line}: is not a key" + (f"; one of {', '.join(keys)}" if keys else "")
    if error["type"] != "missing":
        line += _short(": {}", error["input"])
    return f"{line}: {why}" + _short("; such as {}", _example(path, examples))


def _short(template: str, value: object) -> str:
    """``template`` with ``value``, or nothing where that would drown the line."""
    text = json.dumps(value, default=str)
    return template.format(text) if value is not None and len(text) <= _SHORT else ""


def _example(path: list[str], examples: Path) -> object:
    """The value at ``path`` in a file of ``examples``."""
    found = (reduce(_child, path, document) for document in _documents(examples))
    return next((node for node in found if node is not None), None)


@cache
def _documents(folder: Path) -> list[object]:
    documents: list[object] = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            documents.append(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError):  # another file that does not hold is no example
            continue
    return documents


def _child(node: object, part: str) -> object:
    if isinstance(node, dict):
        return cast("dict[str, object]", node).get(part)
    if isinstance(node, list) and part.isdigit():
        return next(iter(cast("list[object]", node)[int(part) :]), None)
    return None


def _keys(node: object) -> list[str]:
    return list(cast("dict[str, object]", node)) if isinstance(node, dict) else []
