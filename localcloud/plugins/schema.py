"""What the installed Pulumi SDKs know of a resource type, and the check of inputs against it.

The official plugins carry a schema; the stand-ins derive theirs from the classes that the SDKs generated from the very
same schema. Importing those classes costs seconds (`pulumi_gcp.compute` has 5 MB of arguments), so it is done once for
each version of an SDK, in a process of its own, and kept as JSON in the cache folder.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, cast

from filelock import FileLock

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What stands for a value that is not known in a preview (`pulumi.runtime.rpc.UNKNOWN`)."""
SIGNATURE = "4dabf18193072939515e22adb298388d"
"""The key that marks an object as an asset or a secret (`pulumi.runtime.rpc._special_sig_key`)."""

Value = Any
"""A JSON-like value."""
Type = str | dict[str, Any]
"""`"string"`, `"integer"`, `"number"`, `"boolean"`, `"asset"`, `"any"`, or one of `{"array": Type}`, `{"map": Type}`,
`{"object": name of a shape}`, `{"anyOf": [Type…]}`."""


class SchemaError(RuntimeError):
    """The installed SDK has no such type."""


@dataclass(frozen=True)
class Shape:
    """The properties of an object by their names on the wire, and those that must be given."""

    properties: dict[str, Type]
    required: list[str]


@dataclass(frozen=True)
class Schema:
    """One resource type: its inputs, the outputs that always have a value, and the shapes that the inputs refer to."""

    token: str
    inputs: Shape
    computed: dict[str, Type]
    shapes: dict[str, Shape]

    def problems(self, inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield (property path, what is wrong) for each input that the official plugin would not take."""
        return self._in_object(self.inputs, inputs, "")

    def _in_object(self, shape: Shape, value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for key in shape.required:
            if value.get(key) is None:
                yield prefix + key, f'{self.token}: the required property "{prefix}{key}" is missing'
        for key, item in value.items():
            expected = shape.properties.get(key, shape.properties.get("*"))
            if expected:
                yield from self._in_value(expected, item, prefix + key)
            elif not key.startswith("__"):
                nearest = difflib.get_close_matches(key, shape.properties, n=1, cutoff=0)[0]
                yield prefix + key, f'{self.token} has no property "{prefix}{key}"; the nearest is "{prefix}{nearest}"'

    def _in_value(self, expected: Type, value: Value, path: str) -> Iterator[tuple[str, str]]:
        if value is None or value == UNKNOWN or expected == "any":
            return
        match expected:
            case {"array": item} if isinstance(value, list):
                for index, element in enumerate(cast("list[Any]", value)):
                    yield from self._in_value(item, element, f"{path}[{index}]")
            case {"map": item} if isinstance(value, dict):
                for key, element in cast("dict[str, Any]", value).items():
                    yield from self._in_value(item, element, f"{path}.{key}")
            case {"object": name} if isinstance(value, dict):
                yield from self._in_object(self.shapes[name], cast("dict[str, Any]", value), f"{path}.")
            case {"anyOf": choices}:
                yield from min((list(self._in_value(choice, value, path)) for choice in choices), key=len)
            case str() if _is_a(expected, value):
                return
            case _:
                wanted = expected if isinstance(expected, str) else next(iter(expected))
                yield path, f'{self.token}: "{path}" must be of type {wanted}, not {_type_name(value)}'


def _is_a(expected: str, value: Value) -> bool:
    match expected:
        case "asset":
            return isinstance(value, dict) and SIGNATURE in value
        case "integer" | "number":
            return isinstance(value, int) or (expected == "number" and isinstance(value, float))
        case _:
            return _type_name(value) == expected


def _type_name(value: Value) -> str:
    """Name the type of a value and never the value itself: it may be a secret."""
    names: dict[type, str] = {bool: "boolean", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "number")  # pyright: ignore[reportUnknownArgumentType] - of anything


# --- the cache --------------------------------------------------------------------------------------------------------


def load(package: str, token: str, also: Iterable[str] = ()) -> Schema:
    """Return the schema of a type, deriving it in another process if this is the first use of it.

    Args:
        package: `aws`, `gcp` or `kubernetes`.
        token: a resource type such as `aws:sagemaker/endpoint:Endpoint`, or `pulumi:providers:aws`.
        also: types to derive on the way, as the import is what costs.

    Raises:
        SchemaError: the SDK has no such type, or cannot be imported.
    """
    from localcloud.toolchain import cache_path  # noqa: PLC0415 - a provider starts without the tools' modules

    folder = cache_path() / "schemas" / f"{package}-{importlib.metadata.version(f'pulumi-{package}')}"
    file = folder / _file_name(token)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            missing = [each for each in {token, *also} if not (folder / _file_name(each)).exists()]
            if token in missing:
                _derive_elsewhere(package, folder, token, missing)
    content = json.loads(file.read_bytes())
    if content is None:
        raise SchemaError(f"{folder.name} has no resource type {token}.")
    shapes = {name: Shape(**shape) for name, shape in content["shapes"].items()}
    return Schema(token, Shape(**content["inputs"]), content["computed"], shapes)


def _derive_elsewhere(package: str, folder: Path, token: str, tokens: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __spec__.name, package, str(folder), *tokens],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SchemaError(f"the schema of {token} cannot be derived from pulumi-{package}: {done.stderr[-500:]}")


def _file_name(token: str) -> str:
    return token.replace("/", "_").replace(":", "-") + ".json"


# --- from the SDK's classes (the other process) -----------------------------------------------------------------------


def derive(package: str, token: str) -> Schema:
    """Derive the schema of a type from the classes of the SDK, which this imports.

    Raises:
        ImportError, AttributeError: the SDK has no such type.
    """
    resource = _resource_class(package, token)
    module = vars(sys.modules[resource.__module__])
    name = next(name for name in (f"{resource.__name__}InitArgs", f"{resource.__name__}Args") if name in module)
    shapes: dict[str, Shape] = {}
    inputs = _shape(module[name], shapes)
    outputs = {key: hint for key, hint in _hints(resource).items() if key not in ("id", "urn")}
    computed = {key: _type(hint, shapes) for key, hint in outputs.items() if NoneType not in _members(hint)}
    return Schema(token, inputs, computed, shapes)


def _resource_class(package: str, token: str) -> type:
    _, module, name = token.split(":")
    if module == "providers":
        return importlib.import_module(f"pulumi_{package}").Provider
    group, _, version = module.partition("/")
    if package == "kubernetes":  # networking.k8s.io/v1 is the module networking.v1
        group = f"{group.partition('.')[0]}.{version}"
    return getattr(importlib.import_module(f"pulumi_{package}.{group}"), name)


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a generated class by their names on the wire, with `Optional` kept."""
    from pulumi import _types  # noqa: PLC0415 # pyright: ignore[reportPrivateUsage] - half a second that only this process pays; the SDK's own reader

    return _types._raw_return_hints(cls)  # pyright: ignore[reportPrivateUsage] - the public ones drop Optional


def _shape(cls: type, shapes: dict[str, Shape]) -> Shape:
    from pulumi import _types  # noqa: PLC0415 # pyright: ignore[reportPrivateUsage] - as above

    names = _types.input_type_py_to_pulumi_names(cls)
    parameters = inspect.signature(cls).parameters
    required = [names[key] for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    return Shape({name: _type(hint, shapes) for name, hint in _hints(cls).items()}, required)


def _members(hint: Value) -> list[Any]:
    """Return what a value can be, without `Input`'s and `Output`'s wrappers."""
    from pulumi import Output  # noqa: PLC0415 - as above

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Output:
        return _members(arguments[0])
    if origin in (typing.Union, UnionType):
        plain = [each for each in arguments if not str(each).startswith(("collections.abc.Awaitable", "pulumi.output"))]
        return [member for each in plain for member in _members(each)]
    return [hint]


def _type(hint: Value, shapes: dict[str, Shape]) -> Type:
    types: list[Type] = []
    for member in _members(hint):
        if member is not NoneType and (kind := _member_type(member, shapes)) not in types:
            types.append(kind)
    return types[0] if len(types) == 1 else {"anyOf": types}


def _member_type(cls: Value, shapes: dict[str, Shape]) -> Type:
    from pulumi import Archive, Asset  # noqa: PLC0415 - as above

    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if origin is typing.Literal:
        return "string"
    if origin:
        kind = "map" if issubclass(origin, Mapping) else "array"
        return {kind: _type(arguments[-1], shapes)}
    if not isinstance(cls, type):
        return "any"
    if hasattr(cls, "_pulumi_input_type"):
        name = f"{cls.__module__}.{cls.__name__}"
        if name not in shapes:
            shapes[name] = Shape({}, [])  # first, for a shape can hold itself
            shapes[name] = _shape(cls, shapes)
        return {"object": name}
    plain: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    plain |= {Asset: "asset", Archive: "asset"}
    return next((name for parent, name in plain.items() if issubclass(cls, parent)), "any")


def main(package: str, folder: Path, tokens: Sequence[str]) -> None:
    """Write the schema of each type into the folder, `null` if the SDK does not have it."""
    for token in tokens:
        try:
            schema = asdict(derive(package, token))
        except (ImportError, AttributeError):
            schema = None
        temporary = folder / f"{_file_name(token)}.{os.getpid()}"
        temporary.write_text(json.dumps(schema))
        temporary.replace(folder / _file_name(token))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
