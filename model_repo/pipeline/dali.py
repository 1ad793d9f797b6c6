# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
# DALI is inside Triton's image only.
"""An image file to normalised pixels on the GPU: the pipeline that Triton's DALI backend makes of this file.

NVIDIA's image has DALI, and no Pillow. The resampling differs from Pillow's in the last bits of a pixel.
Backend: https://github.com/triton-inference-server/dali_backend (autoserialization of ``dali.py``).
"""

import json
from pathlib import Path

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.triton import autoserialize

SETTINGS = json.loads(Path(__file__).with_name("image.json").read_text(encoding="utf-8"))


@autoserialize
@pipeline_def(batch_size=SETTINGS["batch_size"], num_threads=2, device_id=0)
def image():  # noqa: ANN201 - an edge of DALI's graph, which has no type
    """Decode, resize the shorter side, cut out the centre, normalise."""
    files = fn.external_source(device="cpu", name="image_file")
    pictures = fn.decoders.image(files, device="mixed", output_type=types.RGB)
    resized = fn.resize(
        pictures, resize_shorter=SETTINGS["resize"], interp_type=types.INTERP_TRIANGULAR, antialias=True
    )
    return fn.crop_mirror_normalize(
        resized,
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=(SETTINGS["height"], SETTINGS["width"]),
        mean=[255 * value for value in SETTINGS["mean"]],
        std=[255 * value for value in SETTINGS["std"]],
    )
