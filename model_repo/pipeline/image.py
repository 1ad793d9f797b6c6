"""An image file to normalised pixels: a model of Triton's Python backend for the CPU, over Pillow.

As ``torchvision``'s evaluation transform does it: the shorter side resized, the centre cut out, mean and deviation.
"""

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]
Request = Any
Response = Any
"""Of ``triton_python_backend_utils``, which has no types."""

MAX_PIXELS = 50_000_000
"""What a request may make this process unpack: 150 MB. A file of a few kB can hold far more."""


class Transform:
    """What ``image.json`` says is to be done with an image."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._resize: int = settings["resize"]
        self._height, self._width = settings["height"], settings["width"]
        self._mean = np.array(settings["mean"], np.float32)
        self._std = np.array(settings["std"], np.float32)

    def __call__(self, content: bytes) -> Pixels:
        """Channels, height, width.

        Raises:
            ValueError: ``content`` is no image that can be decoded, or too large a one.
        """
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
                picture = self._cut(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"not an image that can be decoded: {error}") from error
        pixels = np.asarray(picture, np.float32) / 255
        return ((pixels - self._mean) / self._std).transpose(2, 0, 1)

    def _cut(self, image: Image.Image) -> Image.Image:
        scale = self._resize / min(image.size)
        # As torchvision: the longer side is cut off to a whole pixel.
        width, height = (max(self._resize, int(side * scale)) for side in image.size)
        left, top = round((width - self._width) / 2), round((height - self._height) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + self._width, top + self._height))


class TritonPythonModel:
    """One instance, by the Python backend's interface."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")  # exists inside Triton only
        folder = Path(args["model_repository"]) / args["model_version"]
        self._transform = Transform(json.loads((folder / "image.json").read_text(encoding="utf-8")))
        self._output: str = json.loads(args["model_config"])["output"][0]["name"]

    def execute(self, requests: list[Request]) -> list[Response]:
        """Decode each request's images."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        files: NDArray[np.uint8] = self._triton.get_input_tensor_by_name(request, "image_file").as_numpy()
        try:
            pixels = np.stack([self._transform(file.tobytes()) for file in files])
        except ValueError as error:
            return self._triton.InferenceResponse(error=self._triton.TritonError(f"image_file: {error}"))
        return self._triton.InferenceResponse([self._triton.Tensor(self._output, pixels)])
