"""How an endpoint moves to a new configuration, and what brings it back."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:  # the settings read this file, and need no SDK
    from pulumi_aws.sagemaker import (
        EndpointDeploymentConfigArgsDict,
        EndpointDeploymentConfigBlueGreenUpdatePolicyTrafficRoutingConfigurationArgsDict,
    )

Strategy = Literal["all-at-once", "canary", "linear", "rolling"]

STEP_PERCENT: Final[dict[Strategy, tuple[int, int]]] = {"canary": (1, 50), "linear": (10, 50), "rolling": (5, 50)}
"""Least and most of the fleet that takes traffic in one step, both included; all-at-once has no steps.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_TrafficRoutingConfig.html,
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RollingUpdatePolicy.html
"""

MAX_WAIT_S: Final = 3600
"""Of one baking period; SageMaker's limit."""

PROVISION_S: Final = 600
"""What is allowed for instances to come up, before any of them loads the model. An assumption: minutes are usual."""

_TERMINATION_WAIT_S: Final = 120
"""How long the old fleet stays once the new one has all traffic."""

_MIN_TIMEOUT_S: Final = 600
_MAX_TIMEOUT_S: Final = 14_400
"""SageMaker takes up to 28,800; the AWS provider refuses more than this:
https://www.pulumi.com/registry/packages/aws/api-docs/sagemaker/endpoint/
"""


def start_timeouts_s(model_size_bytes: int) -> tuple[int, int]:
    """Seconds that an instance may take to download a model, and then to answer its first health check.

    Whole minutes within SageMaker's 60 to 3,600
    (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProductionVariant.html). The rates are assumptions,
    well below what a g4dn's network and disk give; five minutes stand before each for what does not grow with the
    model: the host, and the container with its libraries.

    Args:
        model_size_bytes: Of the whole repository, at least 0.
    """

    def at(bytes_per_s: float) -> int:
        return min(3600, 60 * math.ceil((300 + model_size_bytes / bytes_per_s) / 60))

    return at(50e6), at(25e6)


class DeploymentError(ValueError):
    """A deployment that SageMaker would refuse, or that could not end in time."""


@dataclass(frozen=True)
class Deployment:
    """How traffic goes over from the old fleet to the new one.

    all-at-once, canary and linear bring up the whole new fleet beside the old one (blue/green); rolling replaces the
    fleet part by part, and needs no second one. In every baking period the rollback alarms are watched: one that
    rings brings the old fleet back.
    """

    strategy: Strategy
    wait_s: int
    """Seconds of each baking period, 0 to 3,600."""
    step_percent: int | None = None
    """Share of the fleet in one step (`STEP_PERCENT`); None for all-at-once."""

    def check(self, least_count: int, *, variants: int) -> None:
        """Refuse what this fleet cannot do.

        Args:
            least_count: Fewest instances that the model itself has, at least 1. What SageMaker makes of a challenger
                of one instance, its documentation does not say.
            variants: Variants behind the endpoint, at least 1.

        Raises:
            DeploymentError: A part of one instance was asked for, or several variants cannot roll
                (https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html).
        """
        if self.strategy != "all-at-once" and least_count < 2:  # noqa: PLR2004 - a half of one instance is none
            raise DeploymentError(
                f'strategy: "{self.strategy}" moves a part of the fleet, which may be of {least_count} instance only; '
                "write all-at-once, or a traffic.base_rps that needs two"
            )
        if self.strategy == "rolling" and variants > 1:
            raise DeploymentError(
                f'strategy: "rolling" takes one variant, and there are {variants}; write canary, linear or all-at-once'
            )

    def timeout_s(self, start_s: int) -> int:
        """Seconds within which an update must have ended: every start and every wait, in whole minutes.

        Args:
            start_s: What an instance may take to load the model and answer.

        Raises:
            DeploymentError: More than the 14,400 s that the provider takes.
        """
        steps = {"all-at-once": 1, "canary": 2}.get(self.strategy) or math.ceil(100 / (self.step_percent or 100))
        starts = steps if self.strategy == "rolling" else 1
        needed = starts * (PROVISION_S + start_s) + steps * self.wait_s + _TERMINATION_WAIT_S
        if needed > _MAX_TIMEOUT_S:
            raise DeploymentError(
                f"wait_s: {self.strategy} in {steps} steps with {self.wait_s} s after each may take {needed} s, "
                f"over the {_MAX_TIMEOUT_S} s that an update may last; write a shorter wait_s or a larger step_percent"
            )
        return max(_MIN_TIMEOUT_S, 60 * math.ceil(needed / 60))

    def policy(self, start_s: int) -> "EndpointDeploymentConfigArgsDict":
        """The update policy of a deployment configuration; its rollback alarms are the endpoint's to add.

        Args:
            start_s: What an instance may take to load the model and answer.

        Raises:
            DeploymentError: As `timeout_s`.
        """
        size: Any = {"type": "CAPACITY_PERCENT", "value": self.step_percent}
        timeout_s = self.timeout_s(start_s)
        if self.strategy == "rolling":
            return {
                "rolling_update_policy": {
                    "maximum_batch_size": size,
                    "wait_interval_in_seconds": self.wait_s,
                    "maximum_execution_timeout_in_seconds": timeout_s,
                }
            }
        routing: EndpointDeploymentConfigBlueGreenUpdatePolicyTrafficRoutingConfigurationArgsDict = {
            "type": self.strategy.upper().replace("-", "_"),
            "wait_interval_in_seconds": self.wait_s,
        }
        if self.strategy == "canary":
            routing["canary_size"] = size
        elif self.strategy == "linear":
            routing["linear_step_size"] = size
        return {
            "blue_green_update_policy": {
                "traffic_routing_configuration": routing,
                "termination_wait_in_seconds": _TERMINATION_WAIT_S,
                "maximum_execution_timeout_in_seconds": timeout_s,
            }
        }
