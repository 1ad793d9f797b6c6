"""What goes together with what: the table, and the check that stands before anything is created."""

import re
from typing import Any

import pytest

from model_repo.compatibility import CompatibilityError, ami_drivers, triton_releases
from model_repo.compatibility_check import Finding, Host, check, gke_host, sagemaker_host
from model_repo.manifest import Engine

T4 = sagemaker_host("ml.g4dn.xlarge", "al2023-ami-sagemaker-inference-gpu-4-1")
NEWEST = triton_releases()["25.09"]


def engine(**changes: Any) -> Engine:
    fields: dict[str, Any] = {
        "key": "0" * 64,
        "onnx_sha256": "1" * 64,
        "triton_release": "25.09",
        "tensorrt": "10.13.3.9",
        "compute_capability": "7.5",
        "driver": "580.95.05",
        "command": ("trtexec",),
        "max_abs_error": 0.001,
    }
    return Engine(**fields | changes)


def failed(findings: list[Finding]) -> dict[str, str | None]:
    return {finding.what: finding.fix for finding in findings if not finding.ok}


def test_an_engine_that_was_built_for_image_and_gpu_passes_every_check_on_both_targets() -> None:
    for host in (T4, gke_host("nvidia-tesla-t4", "LATEST")):
        findings = check(engine(), NEWEST, host)
        assert [finding.what for finding in findings] == [
            f"{host.name}: {what}" for what in ("driver", "image", "engine and GPU", "engine and image")
        ]
        assert failed(findings) == {}


@pytest.mark.parametrize("name", triton_releases())
def test_the_ami_of_a_release_has_a_driver_for_it(name: str) -> None:
    release = triton_releases()[name]
    assert failed(check(None, release, sagemaker_host("ml.g4dn.xlarge", release.inference_ami_version))) == {}


@pytest.mark.parametrize(
    ("host", "fix"),
    [
        (sagemaker_host("ml.g4dn.xlarge", None), "use InferenceAmiVersion al2023-ami-sagemaker-inference-gpu-4-1"),
        (gke_host("nvidia-tesla-t4", "DEFAULT"), "use gpuDriverVersion LATEST"),
    ],
)
def test_a_driver_that_is_too_old_is_found_with_the_setting_that_mends_it(host: Host, fix: str) -> None:
    assert failed(check(engine(), NEWEST, host)) == {f"{host.name}: driver": fix}


def test_another_gpu_is_found() -> None:
    a10g = sagemaker_host("ml.g5.xlarge", NEWEST.inference_ami_version)
    found = failed(check(engine(), NEWEST, a10g))
    assert found == {
        "SageMaker ml.g5.xlarge: engine and GPU": "build it for 8.6, or serve it on a GPU that has 7.5",
    }


def test_an_engine_of_another_tensorrt_is_found_with_the_release_that_it_is_of() -> None:
    old = engine(tensorrt="10.4.0.26", triton_release="24.09")
    assert failed(check(old, NEWEST, T4)) == {
        "SageMaker ml.g4dn.xlarge: engine and image": "set triton.release to 24.09, or build the engine again for 25.09"
    }


def test_a_gpu_that_a_release_has_left_behind_is_found() -> None:
    v100 = sagemaker_host("ml.p3.2xlarge", NEWEST.inference_ami_version)
    assert list(failed(check(None, NEWEST, v100))) == ["SageMaker ml.p3.2xlarge: image"]


def test_without_an_engine_only_image_and_host_are_compared() -> None:
    assert [finding.what.rpartition(": ")[2] for finding in check(None, NEWEST, T4)] == ["driver", "image"]


@pytest.mark.parametrize(
    ("release", "region", "account"),
    [
        ("23.12", "us-east-1", "785573368785"),
        ("24.09", "us-east-1", "763104351884"),
        ("25.09", "us-east-1", "763104351884"),
        ("25.09", "eu-central-2", "380420809688"),
    ],
)
def test_the_account_of_an_image_depends_on_region_and_release(release: str, region: str, account: str) -> None:
    image = triton_releases()[release].sagemaker_image(region)
    assert image == f"{account}.dkr.ecr.{region}.amazonaws.com/sagemaker-tritonserver:{release}-py3"


def test_a_region_without_an_image_is_told_with_those_that_have_one() -> None:
    with pytest.raises(ValueError, match=r'"eu-central-2" has no SageMaker Triton image; one of .*us-west-2'):
        triton_releases()["24.09"].sagemaker_image("eu-central-2")


def test_every_region_and_account_of_the_table_is_well_formed() -> None:
    for release in triton_releases().values():
        for region, account in release.sagemaker_registries.items():
            assert re.fullmatch(r"[a-z]{2}-[a-z]+-\d", region)
            assert re.fullmatch(r"\d{12}", account)


def test_what_the_table_does_not_know_is_an_error_and_never_a_guess() -> None:
    with pytest.raises(CompatibilityError, match=r'^"ml\.g7" is no known family .*ml\.g4dn'):
        sagemaker_host("ml.g7.xlarge", None)
    with pytest.raises(CompatibilityError, match=r"^\"al3\" is no known InferenceAmiVersion; one of default, "):
        sagemaker_host("ml.g4dn.xlarge", "al3")
    with pytest.raises(CompatibilityError, match=r"nvidia-tesla-p4.* is no known GKE accelerator; one of .*t4"):
        gke_host("nvidia-tesla-p4", "LATEST")
    with pytest.raises(CompatibilityError, match="gpuDriverVersion; one of DEFAULT, LATEST"):
        gke_host("nvidia-tesla-t4", "latest")


def test_the_default_driver_of_g4dn_is_too_old_for_every_release_so_that_one_must_be_named() -> None:
    assert all(release.driver > ami_drivers()["default"] for release in triton_releases().values())
