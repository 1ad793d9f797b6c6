"""The files of a model repository, but for those that an export makes."""

from collections.abc import Sequence

from model_repo.config import CONFIG_NAME, InstanceGroup, config_pbtxt, model_config, served_name
from model_repo.ensemble import ensemble_files
from model_repo.recipe import Recipe


def configuration_files(recipe: Recipe, groups: Sequence[InstanceGroup] = ()) -> dict[str, bytes]:
    """Path in the repository → content: every model's ``config.pbtxt``, and what an ensemble needs besides.

    Args:
        recipe: what is served.
        groups: where the model's instances are; none: as many as the variant has, on every GPU.

    Raises:
        model_repo.spec.SpecError: the labels of the spec's ensemble are not there, or not one for each class.
    """
    config = config_pbtxt(model_config(recipe, groups)).encode()
    around = ensemble_files(recipe) if recipe.spec.serving.ensemble else {}
    return {f"{served_name(recipe)}/{CONFIG_NAME}": config, **around}
