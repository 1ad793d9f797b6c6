"""What the local SageMaker and the local GKE node make of a container's definition."""

from pathlib import Path

import pytest

from localcloud.triton import TritonError, check_repository, kubernetes_arguments, sagemaker_arguments
from model_repo.manifest import MANIFEST_NAME, Manifest

DEFAULTS = [
    "--allow-sagemaker=true",
    "--allow-http=false",
    "--model-control-mode=explicit",
    "--model-repository={repository}",
    "--model-namespacing=true",
    "--allow-grpc=false",
    "--allow-metrics=false",
    "--log-verbose=true",
    "--backend-config=python,shm-default-byte-size=16777216",
    "--backend-config=python,shm-growth-byte-size=1048576",
    "--load-model=bert",
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "bert/1").mkdir(parents=True)
    (tmp_path / "bert/config.pbtxt").write_text('name: "bert"')
    (tmp_path / MANIFEST_NAME).write_bytes(b"{}")
    return tmp_path


def test_no_settings_give_the_image_s_defaults(repository: Path) -> None:
    assert sagemaker_arguments({}, repository) == [one.format(repository=repository) for one in DEFAULTS]


@pytest.mark.parametrize(
    ("variable", "value", "argument"),
    [
        ("SAGEMAKER_TRITON_LOG_VERBOSE", "false", "--log-verbose=false"),
        ("SAGEMAKER_TRITON_ALLOW_METRICS", "true", "--allow-metrics=true"),
        ("SAGEMAKER_TRITON_ALLOW_GRPC", "true", "--allow-grpc=true"),
        ("SAGEMAKER_TRITON_THREAD_COUNT", "16", "--sagemaker-thread-count=16"),
        ("SAGEMAKER_TRITON_BUFFER_MANAGER_THREAD_COUNT", "4", "--buffer-manager-thread-count=4"),
        ("SAGEMAKER_TRITON_SHM_DEFAULT_BYTE_SIZE", "1", "--backend-config=python,shm-default-byte-size=1"),
        ("SAGEMAKER_TRITON_LOG_INFO", "false", "--log-info=false"),
        ("SAGEMAKER_BIND_TO_PORT", "8081", "--sagemaker-port=8081"),
    ],
)
def test_a_setting_takes_the_place_of_its_default(repository: Path, variable: str, value: str, argument: str) -> None:
    arguments = sagemaker_arguments({variable: value}, repository)
    option = argument.rpartition("=")[0]
    assert [one for one in arguments if one.rpartition("=")[0] == option] == [argument]


def test_an_empty_setting_counts_as_none(repository: Path) -> None:
    assert sagemaker_arguments({"SAGEMAKER_TRITON_LOG_VERBOSE": ""}, repository) == sagemaker_arguments({}, repository)


def test_additional_arguments_come_before_the_model_to_load(repository: Path) -> None:
    environment = {"SAGEMAKER_TRITON_ADDITIONAL_ARGS": "--exit-timeout-secs=5  --strict-readiness=true"}
    assert sagemaker_arguments(environment, repository)[-3:] == [
        "--exit-timeout-secs=5",
        "--strict-readiness=true",
        "--load-model=bert",
    ]


def test_several_models_need_the_name_of_the_one_to_serve(repository: Path) -> None:
    (repository / "tokenizer").mkdir()
    with pytest.raises(TritonError, match=r"2 model folders \(bert, tokenizer\).*SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"):
        sagemaker_arguments({}, repository)
    named = sagemaker_arguments({"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "tokenizer"}, repository)
    assert named[-1] == "--load-model=tokenizer"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "brt"}, "brt: the model data has only bert"),
        ({"SAGEMAKER_MULTI_MODEL": "true"}, "multi-model endpoints are not served here"),
        ({"SAGEMAKER_TRITON_INFERENCE_TYPE": "guess"}, "must be one of infer, generate, generate_stream"),
    ],
)
def test_what_the_image_refuses_is_refused(repository: Path, environment: dict[str, str], reason: str) -> None:
    with pytest.raises(TritonError, match=reason):
        sagemaker_arguments(environment, repository)


def test_a_configuration_at_the_root_is_refused(repository: Path) -> None:
    (repository / "config.pbtxt").touch()
    with pytest.raises(TritonError, match="at the root of the model data"):
        sagemaker_arguments({}, repository)


def test_a_deployment_s_arguments_are_unchanged() -> None:
    container = {
        "name": "triton",
        "command": ["tritonserver", "--model-repository=gs://b/p"],
        "args": ["--http-port=1"],
    }
    assert kubernetes_arguments(container) == ["--model-repository=gs://b/p", "--http-port=1"]


@pytest.mark.parametrize("command", [None, [], ["sh", "-c", "tritonserver"]])
def test_another_command_is_refused(command: list[str] | None) -> None:
    with pytest.raises(TritonError, match="not tritonserver"):
        kubernetes_arguments({"name": "triton", "command": command})


def test_the_bytes_must_be_those_of_the_digest(repository: Path) -> None:
    manifest = Manifest.of_folder(
        repository, name="bert", variant="trt-db", precision="fp32", device="cpu", weights="hub@1"
    )
    (repository / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    check_repository(repository, manifest.digest)
    with pytest.raises(TritonError, match=f"has the digest {manifest.digest}, its prefix says 0000"):
        check_repository(repository, "0" * 64)
    (repository / "bert/config.pbtxt").write_text('name: "other"')
    with pytest.raises(TritonError, match=r"bert/config\.pbtxt: SHA-256"):
        check_repository(repository, manifest.digest)


def test_a_repository_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonError, match=r"no manifest\.json"):
        check_repository(tmp_path, "0" * 64)
