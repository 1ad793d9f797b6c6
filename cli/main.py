"""`triton-stack`: the command line over the project's packages."""

import sys

import typer

from capacity.measurements import MeasurementError
from capacity.recommendation import RecommendationError
from capacity.recommender import RecommenderError
from cli import local, model, recommend, stack
from cli.steps import console
from delivery.smoke import SmokeError
from delivery.stack import StackError
from delivery.status import NotReadyError
from localcloud.supervisor import SupervisorError
from localcloud.toolchain import ToolchainError
from localcloud.triton import TritonError
from model_repo.archive import ArchiveError
from model_repo.build import BuildError, NotBuilt
from model_repo.calibration import CalibrationError
from model_repo.compatibility import CompatibilityError
from model_repo.engine import EngineError
from model_repo.loadtest import LoadError
from model_repo.manifest import ManifestError
from model_repo.placement import PlacementError
from model_repo.publish import PublishError
from model_repo.recipe import RecipeError
from model_repo.store import StoreError
from model_repo.variant import VariantError
from model_repo.yamlfile import SpecError
from stacks.settings import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="NVIDIA Triton on SageMaker and GKE: the local stack, previews, models and load tests.",
    pretty_exceptions_enable=False,
)
app.command()(local.up)
app.command()(local.down)
app.command()(local.status)
app.command()(local.env)
app.command()(stack.preview)
app.add_typer(model.app, name="model")
app.add_typer(recommend.app, name="recommend")

# What a user can mend: its text is the whole message.
_USER_ERRORS = (
    ArchiveError,
    BuildError,
    CalibrationError,
    CompatibilityError,
    EngineError,
    LoadError,
    ManifestError,
    MeasurementError,
    NotBuilt,
    NotReadyError,
    PlacementError,
    PublishError,
    RecipeError,
    RecommendationError,
    RecommenderError,
    SettingsError,
    SmokeError,
    SpecError,
    StackError,
    StoreError,
    SupervisorError,
    ToolchainError,
    TritonError,
    VariantError,
)

_INTERRUPTED = 130


def main() -> None:
    """Run a command; an error that the user can mend is its text and status 1, an interrupt is status 130."""
    try:
        app()
    except _USER_ERRORS as error:
        for line in str(error).splitlines():
            console.print("[bold red]error:[/] ", end="")
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as end:
        # Typer makes this of an interrupt, and says nothing.
        if end.code == _INTERRUPTED:
            console.print("interrupted; the same command continues, `triton-stack down` clears up")
        raise
