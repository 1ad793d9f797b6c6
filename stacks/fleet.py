"""The instance plan of each target, from the settings' measurements, traffic and SLO."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from capacity.measurements import SHIPPED_FOLDER, MeasurementError, find_measurement, machine, read_measurements
from capacity.planner import InstancePlan, PlanError, plan_instances
from capacity.prices import price_usd_per_hour
from components.aws.deployment import Deployment, DeploymentError, start_timeouts_s
from stacks.model import largest_repository_bytes
from stacks.settings import Settings, SettingsError


@dataclass(frozen=True)
class Fleet:
    """The plans of all targets that a stack deploys."""

    sagemaker: InstancePlan | None
    """None: the target is off."""
    challenger: InstancePlan | None
    """Of the endpoint's second digest; None: there is none."""
    gke: Mapping[str, InstancePlan]
    """Region → its cluster's T4 nodes; empty: the target is off."""


def plan_fleet(settings: Settings) -> Fleet:
    """Plan every enabled target: SageMaker takes the whole traffic, each GKE region an even share of it.

    Raises:
        SettingsError: A variant was not measured on a target's machines, or does not hold the SLO there: one line each.
    """
    errors: list[str] = []
    sagemaker = challenger = None
    gke: dict[str, InstancePlan] = {}
    try:
        if settings.sagemaker.enabled:
            sagemaker = _sagemaker_plan(settings, 1)
            if settings.sagemaker.challenger:
                challenger = _sagemaker_plan(settings, Fraction(settings.sagemaker.challenger.percent, 100))
            _check_deployment(settings, sagemaker)
    except (MeasurementError, PlanError) as error:
        errors.append(f"triton-stack:sagemaker.instance_type: {error}")
    except DeploymentError as error:
        errors.append(f"triton-stack:sagemaker.deployment.{error}")
    try:
        if settings.gke.enabled:
            gke = {region: _gke_plan(settings, region) for region in settings.gke.regions}
    except (MeasurementError, PlanError) as error:
        errors.append(f"triton-stack:gke.machine_type: {error}")
    if errors:
        raise SettingsError("\n".join(errors))
    return Fleet(sagemaker, challenger, gke)


def _sagemaker_plan(settings: Settings, share: Fraction | int) -> InstancePlan:
    instance_type = settings.sagemaker.instance_type
    price = price_usd_per_hour("sagemaker", settings.aws_region, instance_type)
    return _plan(settings, instance_type, instance_type, share, price)


def _check_deployment(settings: Settings, plan: InstancePlan) -> None:
    deployment = endpoint_deployment(settings)
    deployment.check(plan.min_count, variants=2 if settings.sagemaker.challenger else 1)
    deployment.timeout_s(sum(start_timeouts_s(largest_repository_bytes(settings.model))))


def endpoint_deployment(settings: Settings) -> Deployment:
    """How the settings let the endpoint move to another configuration."""
    return Deployment(**settings.sagemaker.deployment.model_dump())


def _gke_plan(settings: Settings, region: str) -> InstancePlan:
    chosen = machine(settings.gke.machine_type)
    price = price_usd_per_hour("gke", region, chosen.name)
    return _plan(settings, chosen.name, chosen.measured_as, Fraction(1, len(settings.gke.regions)), price)


def _plan(
    settings: Settings, instance_type: str, measured_as: str, share: Fraction | int, price: float | None
) -> InstancePlan:
    measurements = read_measurements(SHIPPED_FOLDER / settings.capacity.measurements)
    return plan_instances(
        find_measurement(measurements, variant=settings.model.variant, instance_type=measured_as),
        instance_type=instance_type,
        base_rps=float(Fraction(str(settings.traffic.base_rps)) * share),
        peak_rps=float(Fraction(str(settings.traffic.peak_rps)) * share),
        headroom=settings.capacity.headroom,
        safety_factor=settings.capacity.safety_factor,
        slo_latency_ms=settings.slo.latency_ms,
        price_usd_per_hour=price,
    )
