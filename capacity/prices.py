"""What an instance costs."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter

_PRICES = Path(__file__).parent / "prices.yaml"
_Table = dict[Literal["sagemaker", "gke"], dict[str, dict[str, float]]]


def price_usd_per_hour(target: Literal["sagemaker", "gke"], region: str | None, instance_type: str) -> float | None:
    """On-demand price of one instance, or None where the table does not have it.

    Args:
        target: Whose price list.
        region: Region of that cloud; None where a cluster of one's own says nothing of its region.
        instance_type: SageMaker instance type, or machine type with one T4.
    """
    table = TypeAdapter(_Table).validate_python(yaml.safe_load(_PRICES.read_text(encoding="utf-8")))
    return table[target].get(region, {}).get(instance_type) if region is not None else None
