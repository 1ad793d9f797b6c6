"""`triton-stack model export`: a model's forms, how far each is from PyTorch, and what INT8 costs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.steps import step
from model_repo.calibration import CalibrationData
from model_repo.conversion import Conversion
from model_repo.exported import ExportedModel
from model_repo.spec import load_spec

CalibrationFolder = Annotated[
    Path | None,
    typer.Option(
        "--calibration-data",
        exists=True,
        file_okay=False,
        help="For INT8: a folder of .npz files, each with an array for every input, samples first.",
    ),
]


def export(
    name: Annotated[str, typer.Argument(help="Name of a spec in model_repo/models/.")],
    calibration_data: CalibrationFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Convert a model to ONNX, TorchScript and INT8, unless that is done; print what came of it.

    Example: [bold]triton-stack model export bert-small --calibration-data samples/[/]
    """
    spec = load_spec(name)
    conversions = [
        Conversion(spec, "onnx"),
        Conversion(spec, "torchscript"),
        Conversion(spec, "int8", CalibrationData(calibration_data)),
    ]
    exports: list[tuple[Conversion, ExportedModel]] = []
    for conversion in conversions:
        with step(f"{name} {conversion.form}") as report:
            exports.append((conversion, conversion.make(report)))
    if as_json:
        print(json.dumps([_fields(*one) for one in exports], indent=2))
    else:
        _print_table(exports)


def _fields(conversion: Conversion, exported: ExportedModel) -> dict[str, Any]:
    return {
        "form": conversion.form,
        "folder": str(conversion.folder),
        **exported.model_dump(mode="json", exclude_none=True),
    }


def _print_table(exports: list[tuple[Conversion, ExportedModel]]) -> None:
    table = Table("form", "file", "MB", "from PyTorch", "weights", box=None, header_style="bold")
    for conversion, exported in exports:
        for file in exported.files:
            megabytes, parity = f"{file.size_bytes / 1e6:.1f}", f"{exported.parity_error:.1e}"
            table.add_row(conversion.form, file.path, megabytes, parity, exported.weights)
    console = Console()
    console.print(table)
    for conversion, exported in exports:
        if exported.accuracy:
            text = f"\n{conversion.form}, calibrated on {exported.accuracy.data}: {exported.accuracy}"
            console.print(text, soft_wrap=True, highlight=False)
