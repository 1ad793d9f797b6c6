"""What every stand-in provider does: the Pulumi plugin protocol, checks, diffs, previews and drift.

A subclass says which types it knows (`Kind`) and how to create, read, update and delete one; the rest is here. The
protocol is `pulumirpc.ResourceProvider` (https://github.com/pulumi/pulumi/blob/master/proto/pulumi/provider.proto).

Values are JSON-like: an asset is an object with `SIGNATURE`, a value that a preview cannot know is `UNKNOWN`. Secrets
are left to the engine: a plugin that does not say `acceptSecrets` is given plain values, and the engine marks every
output that has the name of a secret input.
"""
# The methods' names and parameters are the protocol's.
# ruff: noqa: N802, ARG002

import functools
import importlib.metadata
import ipaddress
import json
import os
import random
import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.protobuf.json_format import MessageToDict
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2
from pulumi.runtime.proto.plugin_pb2 import PluginInfo

from localcloud.plugins import schema
from localcloud.plugins.schema import SIGNATURE, UNKNOWN, Value

Object = dict[str, Value]

SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the signature of a secret, not one
DEFAULTS = "__defaults"
"""The input in which the official AWS and GCP plugins record which properties they chose themselves."""
POLL_SECONDS = 0.25
DEFAULT_TIMEOUT_SECONDS = 600.0  # the real Kubernetes provider's, and more than anything local takes


class ProviderError(RuntimeError):
    """Something that the user must read; its text is shown as it is."""


class NotLoopbackError(ProviderError):
    """The endpoint is not on this machine."""


class InitializationError(ProviderError):
    """The resource exists but did not become ready: the engine keeps it in the state and tries again."""

    def __init__(self, resource: "Resource", reason: str) -> None:
        super().__init__(reason)
        self.resource = resource


@dataclass(frozen=True)
class Kind:
    """What the engine must know of a resource type beyond its schema.

    Args:
        name: the input that is named automatically when it is not given.
        name_limit: the longest automatic name.
        replaces: properties at or below which a change needs a new resource.
        in_place: if given, every change needs a new resource except at or below these.
        recomputed: outputs that an update changes.
    """

    name: str = ""
    name_limit: int = 64
    replaces: Sequence[str] = ()
    in_place: Sequence[str] | None = None
    recomputed: Sequence[str] = ()

    def forces(self, path: str) -> bool:
        """Say whether a change at a path (without indexes) needs a new resource."""
        listed = self.replaces if self.in_place is None else self.in_place
        found = any(path == each or path.startswith(f"{each}.") for each in listed)
        return found if self.in_place is None else not found


@dataclass(frozen=True)
class Resource:
    """One resource as a call sees it; `id` is empty before it is created."""

    token: str
    inputs: Object
    id: str = ""
    state: Object = field(default_factory=dict[str, Any])
    timeout: float = DEFAULT_TIMEOUT_SECONDS


# --- values -----------------------------------------------------------------------------------------------------------


def decode(message: struct_pb2.Struct) -> Object:
    """Return a message's values without the marks of secrets, whole numbers as `int`."""
    return _plain(MessageToDict(message))


def _plain(value: Value) -> Value:
    match value:
        case dict():
            fields = cast("Object", value)
            if fields.get(SIGNATURE) == SECRET:
                return _plain(fields["value"])
            return {key: _plain(item) for key, item in fields.items()}
        case list():
            return [_plain(item) for item in cast("list[Any]", value)]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def encode(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return the message of JSON-like values; keys whose value is `None` are left out."""
    message = struct_pb2.Struct()
    message.update({key: item for key, item in value.items() if item is not None})
    return message


def same(old: Value, new: Value) -> bool:
    """Say whether two values mean the same: an asset is its hash, a JSON document its content."""
    if isinstance(old, dict) and isinstance(new, dict) and SIGNATURE in old and SIGNATURE in new:
        return cast("Object", old).get("hash") == cast("Object", new).get("hash")
    if isinstance(old, str) and isinstance(new, str) and old[:1] + new[:1] in ("{{", "[["):
        try:
            return json.loads(old) == json.loads(new)
        except ValueError:
            return old == new
    return old == new


def changes(old: Value, new: Value, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, `ADD`, `DELETE` or `UPDATE`) for each difference."""
    if isinstance(old, dict) and isinstance(new, dict) and SIGNATURE not in {*old, *new}:
        before, after = cast("Object", old), cast("Object", new)
        for key in sorted({*before, *after}):
            step = f'["{key}"]' if "." in key else f".{key}" if path else key
            yield from changes(before.get(key), after.get(key), path + step)
    elif isinstance(old, list) and isinstance(new, list):
        left, right = cast("list[Any]", old), cast("list[Any]", new)
        for index in range(max(len(left), len(right))):
            item, other = (each[index] if index < len(each) else None for each in (left, right))
            yield from changes(item, other, f"{path}[{index}]")
    elif not same(old, new):
        yield path, "ADD" if old is None else "DELETE" if new is None else "UPDATE"


def project(old: Value, live: Value, kind: schema.Type, of: schema.Schema) -> Value:
    """Return what an input would have to be to give the live value: only the keys that it manages, and all of a map."""
    if old is None or same(old, live):
        return old
    match kind:
        case {"object": name} if isinstance(old, dict) and isinstance(live, dict):
            types, values = of.shapes[name].properties, cast("Object", live)
            return {
                key: project(item, values[key], types.get(key, "any"), of) if key in values else item
                for key, item in cast("Object", old).items()
                if values.get(key, item) is not None
            }
        case {"array": item} if isinstance(old, list) and isinstance(live, list):
            left, right = cast("list[Any]", old), cast("list[Any]", live)
            if len(left) != len(right):
                return right
            return [project(before, now, item, of) for before, now in zip(left, right, strict=True)]
        case _:
            return live


# --- loopback ---------------------------------------------------------------------------------------------------------


def require_loopback(package: str, endpoint: str | None, setting: str) -> str:
    """Return the endpoint if it is on this machine.

    Raises:
        NotLoopbackError: it is not set, or not on a loopback address.
    """
    host = urlsplit(endpoint or "").hostname or ""
    try:
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return cast("str", endpoint)
    except ValueError:
        pass  # a name, or nothing
    raise NotLoopbackError(
        f'The local stand-in for the {package} provider speaks to this machine only; {setting} is "{endpoint or ""}".'
        f" Set it to an address on 127.0.0.1 for the local stack; for a real cloud install the official plugin:"
        f" pulumi plugin install resource {package} {importlib.metadata.version(f'pulumi-{package}')}"
    )


# --- the servicer -----------------------------------------------------------------------------------------------------


P = ParamSpec("P")
R = TypeVar("R")


def _reported(method: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that a provider expects into the answer that the engine prints."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        provider, context = cast("Provider", args[0]), cast("grpc.ServicerContext", args[2])
        try:
            return method(*args, **kwargs)
        except (ProviderError, schema.SchemaError, *provider.failures()) as error:
            _abort(context, provider.explain(error))

    return call


def _abort(context: grpc.ServicerContext, message: str) -> NoReturn:
    context.abort(grpc.StatusCode.UNKNOWN, message)
    raise AssertionError


class Provider(provider_pb2_grpc.ResourceProviderServicer, ABC):
    """A stand-in provider; subclasses give the package and the calls."""

    package: ClassVar[str]

    def __init__(self) -> None:
        self.config: Object = {}
        self.cancelled = threading.Event()

    # what a subclass gives

    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """Return what the cloud's client raises when the cloud says no."""

    @abstractmethod
    def kind(self, token: str) -> Kind:
        """Return what is special about a type; `ProviderError` if the stand-in does not know it."""

    @abstractmethod
    def create(self, resource: Resource) -> Resource:
        """Create it and return it with its id; leave nothing behind on failure, or raise `InitializationError`."""

    @abstractmethod
    def read(self, resource: Resource) -> Object | None:
        """Return its live properties, or None if it is gone; a property that is `None` has been unset."""

    @abstractmethod
    def update(self, resource: Resource, news: Object) -> None:
        """Change it in place."""

    @abstractmethod
    def delete(self, resource: Resource) -> None:
        """Delete it; one that is gone already is fine."""

    def invoke(self, token: str, args: Object) -> Object:
        """Answer a function call."""
        raise ProviderError(
            f"The local stand-in for the {self.package} provider has no function {token} ({len(args)})."
        )

    def known(self) -> Sequence[str]:
        """Return the types whose schemas are worth deriving together."""
        return ()

    def schema(self, token: str) -> schema.Schema:
        """Return the schema of a type."""
        return schema.load(self.package, token, self.known())

    def explain(self, error: Exception) -> str:
        """Return an error as the user reads it."""
        return str(error)

    def automatic_name(self, kind: Kind, prefix: str, seed: bytes) -> str:
        """Return a name as Pulumi makes them: a prefix and seven hexadecimal digits."""
        digits = f"{random.Random(seed or None).getrandbits(28):07x}"  # noqa: S311 - unique, not secret
        return (prefix[: kind.name_limit - len(digits)] + digits).lower()

    def wait(self, ready: Callable[[], bool], timeout: float, late: Callable[[], str]) -> None:
        """Poll until `ready()`; after `timeout` seconds, or when the engine cancels, raise what `late()` says."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.cancelled.wait(POLL_SECONDS):
                raise ProviderError(f"cancelled: {late()}")
            if time.monotonic() > deadline:
                raise ProviderError(f"timed out after {timeout:g} s: {late()}")

    # the protocol

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> PluginInfo:
        """Answer the version of the installed SDK, whose place the stand-in takes."""
        return PluginInfo(version=importlib.metadata.version(f"pulumi-{self.package}"))

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Stop every wait."""
        self.cancelled.set()
        return empty_pb2.Empty()

    @_reported
    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        """Check the provider's own settings."""
        settings = self._settings(decode(request.news))
        return provider_pb2.CheckResponse(
            inputs=request.news, failures=_failures(self.schema(f"pulumi:providers:{self.package}"), settings)
        )

    @_reported
    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        """Keep the settings; nothing is called before a resource needs it, so that a preview works offline."""
        self.config = self._settings(decode(request.args))
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def _settings(self, config: Object) -> Object:
        """Return the settings with their types: the engine hands over all but strings as JSON in a string."""
        types = self.schema(f"pulumi:providers:{self.package}").inputs.properties
        settings = {key: value for key, value in config.items() if key not in ("version", "pluginDownloadURL")}
        for key, value in settings.items():
            if isinstance(value, str) and value != UNKNOWN and types.get(key, "string") != "string":
                try:
                    settings[key] = json.loads(value)
                except ValueError:
                    continue  # the check names it
        return settings

    @_reported
    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        """Refuse inputs that the SDK's classes do not have, and give a name to what has none."""
        olds, news = decode(request.olds), decode(request.news)
        failures = _failures(self.schema(request.type), news)
        if not failures:
            self.complete(request, olds, news)
        return provider_pb2.CheckResponse(inputs=encode(news), failures=failures)

    def complete(self, request: provider_pb2.CheckRequest, olds: Object, news: Object) -> None:
        """Give a name to what was given none, once and for all: `olds` has the name that it has."""
        kind = self.kind(request.type)
        if kind.name and news.get(kind.name) is None:
            prefix = news.get(f"{kind.name}Prefix")
            new = self.automatic_name(kind, prefix or f"{request.name}-", request.randomSeed)
            news[kind.name] = olds[kind.name] if self.is_named(olds) else new
            news[DEFAULTS] = [kind.name]

    def is_named(self, inputs: Object) -> bool:
        """Say whether the resource has an automatic name."""
        return DEFAULTS in inputs

    @_reported
    def Diff(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        """Compare the inputs of the last update with the new ones."""
        kind, news = self.kind(request.type), decode(request.news)
        olds = self.compared(request.type, decode(request.old_inputs), decode(request.olds))
        response = provider_pb2.DiffResponse(hasDetailedDiff=True, changes=provider_pb2.DiffResponse.DIFF_NONE)
        for path, change in changes(_visible(olds), _visible(news)):
            top = re.split(r"[.\[]", path)[0]
            forced = kind.forces(re.sub(r"\[\d+\]", "", path))
            response.changes = provider_pb2.DiffResponse.DIFF_SOME
            response.diffs.append(top)
            response.replaces.extend([top] * forced)
            response.detailedDiff[path].kind = provider_pb2.PropertyDiff.Kind.Value(change + "_REPLACE" * forced)
            response.detailedDiff[path].inputDiff = True
        response.deleteBeforeReplace = bool(response.replaces) and self.collides(kind, olds, news)
        return response

    def compared(self, token: str, inputs: Object, state: Object) -> Object:
        """Return what new inputs are compared with: those of the last update."""
        return inputs

    def collides(self, kind: Kind, olds: Object, news: Object) -> bool:
        """Say whether a replacement would have the name of what it replaces, which must then go first."""
        return bool(kind.name) and not self.is_named(news) and olds.get(kind.name) == news.get(kind.name)

    @_reported
    def Create(self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        """Create a resource, or say what a preview can know of it."""
        resource = Resource(
            request.type, decode(request.properties), timeout=request.timeout or DEFAULT_TIMEOUT_SECONDS
        )
        if request.preview:
            return provider_pb2.CreateResponse(properties=encode(self.preview(resource)))
        try:
            resource = self.create(resource)
        except InitializationError as error:
            self._keep(error.resource, error, context)
        return provider_pb2.CreateResponse(id=resource.id, properties=encode(self._outputs(resource)))

    def preview(self, resource: Resource) -> Object:
        """Return what is known of a resource that is yet to be created."""
        return dict.fromkeys(self.schema(resource.token).computed, UNKNOWN) | _visible(resource.inputs)

    def _outputs(self, resource: Resource) -> Object:
        """Return inputs and live values, and an empty value for what must have one and has none."""
        empty: Object = {"string": "", "boolean": False, "integer": 0, "number": 0, "array": [], "map": {}}
        computed = self.schema(resource.token).computed
        outputs = {
            key: empty.get(kind if isinstance(kind, str) else next(iter(kind))) for key, kind in computed.items()
        }
        live = self.read(resource)
        if live is None:
            raise ProviderError(f"{resource.token} {resource.id} was created and is gone.")
        return outputs | _visible(resource.inputs) | live

    def _keep(self, resource: Resource, error: ProviderError, context: grpc.ServicerContext) -> NoReturn:
        """Answer that the resource exists and is not ready; the engine keeps it and tries again."""
        detail = provider_pb2.ErrorResourceInitFailed(
            id=resource.id,
            properties=encode(self._outputs(resource)),
            inputs=encode(resource.inputs),
            reasons=[str(error)],
        )
        status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error))
        status.details.add().Pack(detail)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        _abort(context, str(error))

    @_reported
    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        """Return what the cloud has: the outputs, and the inputs that would give them; nothing if it is gone."""
        resource = Resource(request.type, decode(request.inputs), request.id, decode(request.properties))
        live = self.read(resource)
        if live is None:
            return provider_pb2.ReadResponse()
        state = {key: value for key, value in (resource.state | live).items() if value is not None}
        return provider_pb2.ReadResponse(
            id=request.id, properties=encode(state), inputs=encode(self.drifted(resource, live))
        )

    def drifted(self, resource: Resource, live: Object) -> Object:
        """Return the inputs that would give the live values; without old ones, for an import, all that there are."""
        of = self.schema(resource.token)
        types = of.inputs.properties
        old = resource.inputs or {key: live[key] for key in types if live.get(key)}
        known = live.keys() & types.keys()
        return {key: project(item, live[key], types[key], of) if key in known else item for key, item in old.items()}

    @_reported
    def Update(self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        """Change a resource in place, or say what a preview can know of it."""
        news, olds = decode(request.news), decode(request.old_inputs)
        timeout = request.timeout or DEFAULT_TIMEOUT_SECONDS
        resource = Resource(request.type, olds, request.id, decode(request.olds), timeout)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(self.preview_update(resource, news)))
        after = replace(resource, inputs=news)
        try:
            self.update(resource, news)
        except InitializationError as error:
            self._keep(error.resource, error, context)
        return provider_pb2.UpdateResponse(properties=encode(self._outputs(after)))

    def preview_update(self, resource: Resource, news: Object) -> Object:
        """Return what is known of a resource that is yet to be changed."""
        gone = set(_visible(resource.inputs)) - set(news)
        kept = {key: value for key, value in resource.state.items() if key not in gone}
        return kept | _visible(news) | dict.fromkeys(self.kind(resource.token).recomputed, UNKNOWN)

    @_reported
    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Delete a resource and wait until it is gone."""
        timeout = request.timeout or DEFAULT_TIMEOUT_SECONDS
        inputs, state = decode(request.old_inputs), decode(request.properties)
        self.delete(Resource(request.type, inputs, request.id, state, timeout))
        return empty_pb2.Empty()

    @_reported
    def Invoke(self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        """Answer a function call."""
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").update(self.invoke(request.tok, decode(request.args)))
        return response


def _visible(inputs: Object) -> Object:
    return {key: value for key, value in inputs.items() if not key.startswith("__")}


def _failures(of: schema.Schema, inputs: Object) -> list[provider_pb2.CheckFailure]:
    return [provider_pb2.CheckFailure(property=path, reason=reason) for path, reason in of.problems(inputs)]


def serve(provider: Provider) -> None:
    """Serve a provider on a free loopback port, which is printed, until the engine that started it is gone."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # all that it calls is on this machine
    engine = os.getppid()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # how the engine ends a plugin, which has a process group of its own
        signal.signal(number, lambda _number, _frame: stop.set())
    # the engine checks and creates as many resources at once as it likes; each waits in a thread
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)  # noqa: T201 - the protocol's handshake
    server.start()
    while not stop.wait(1) and os.getppid() == engine:
        pass
    provider.cancelled.set()
    server.stop(grace=None)
