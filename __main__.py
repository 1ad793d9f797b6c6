"""Settings in, targets deployed, outputs exported."""

import pulumi

from model_repo.build import NotBuilt
from stacks import gke, sagemaker
from stacks.fleet import plan_fleet
from stacks.model import served_model
from stacks.settings import SettingsError, read_settings, stack_config

try:
    settings = read_settings(stack_config())
    fleet = plan_fleet(settings)
    model = served_model(settings)
except (SettingsError, NotBuilt) as error:
    # A wrong setting is the user's to mend: one line an error, no traceback of ours, and nothing registered.
    raise pulumi.RunError(str(error)) from error

name = f"triton-{pulumi.get_stack()}"
endpoint, stored = (
    sagemaker.deploy(name, settings, model, fleet.sagemaker, fleet.challenger) if fleet.sagemaker else (None, None)
)
pulumi.export("sagemaker", endpoint)
pulumi.export("gke", gke.deploy(name, settings, model, fleet.gke, stored) if fleet.gke else [])
