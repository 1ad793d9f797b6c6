"""The local stack's file names the local cloud as it is without any option."""

from program import stack_config

from cli.local import STATE
from delivery.stack import PROJECT_FOLDER
from localcloud.cloud import Ports


def test_every_aws_service_is_at_the_emulator_s_port() -> None:
    (endpoints,) = stack_config("local")["aws:endpoints"]
    assert set(endpoints.values()) == {f"http://127.0.0.1:{Ports().aws}"}


def test_cloud_storage_is_at_the_emulator_s_port() -> None:
    assert stack_config("local")["gcp:storageCustomEndpoint"] == f"http://127.0.0.1:{Ports().gcs}/storage/v1/"


def test_the_cluster_is_the_local_cloud_s() -> None:
    assert PROJECT_FOLDER / stack_config("local")["triton-stack:gke"]["kubeconfig"] == STATE / "kubeconfig"


def test_triton_s_ports_are_none_of_the_local_cloud_s() -> None:
    gke = stack_config("local")["triton-stack:gke"]
    assert len({gke["http_port"], gke["grpc_port"], *vars(Ports()).values()}) == 7
