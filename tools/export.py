"""Export the trained encoder and decoder for use without this project: `python -m tools.export onnx|torch`.

data/model.safetensors becomes FOLDER/encoder and FOLDER/decoder: ONNX files, or `torch.export` programs (.pt2). Both
take any number of images, and a conditional model's labels too. Images are float32 from 0 to 1, binarized as the model
was trained.

    encoder: images (n, *image_shape) [, labels (n,)] -> center (n, latent_dim), the posterior's mean or, of a flow,
             where it sends its base's mean; and scale (n, latent_dim) of a diagonal normal, or scale_tril (n,
             latent_dim, latent_dim) of one with full covariance
    decoder: latents (n, latent_dim) [, labels (n,)] -> images (n, *image_shape), the pixels' means

Each file is run and compared with the model before the command succeeds. ONNX needs the packages of the extra `export`.
"""

import argparse
import copy
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vae.device import set_up
from vae.errors import InputError, WorkError
from vae.files import replacing
from vae.model import VAE, load

MODEL, FOLDER = Path("data/model.safetensors"), Path("exported")
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-5  # absolute and relative, between float32 kernels that sum in different orders
SCALES = {"diagonal_normal": "scale", "full_covariance": "scale_tril"}  # of the posteriors that have one

Arrays = dict[str, np.ndarray]


class Encoder(nn.Module):
    """A model's posterior as a tuple of tensors, in the order of `outputs`."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model
        # Of two levels the second one's scale depends on a draw of the first.
        self.scale = SCALES.get(model.settings.posterior) if len(model.latent_shapes) == 1 else None
        self.outputs = ["center", *([self.scale] if self.scale else [])]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.scale is None:
            return (self.model.representation_given(images, labels),)
        posterior = self.model.posterior_given(images, labels)
        return posterior.mean, posterior.stddev if self.scale == "scale" else posterior.scale_tril


class Decoder(nn.Module):
    """The means of a model's pixels."""

    outputs = ("images",)

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        return (self.model.image_given(latents, labels).mean,)


class Part(NamedTuple):
    """What is exported under a name: a module, and a function that makes inputs for n images by name."""

    module: nn.Module
    inputs: Callable[[int], dict[str, Tensor]]


def parts(model: VAE) -> dict[str, Part]:
    """The encoder and the decoder of a model on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def labels(n: int) -> dict[str, Tensor]:
        return {"labels": torch.arange(n) % model.classes} if model.classes else {}

    def images(n: int) -> dict[str, Tensor]:
        return {"images": torch.rand(n, *model.image_shape, generator=generator).round(), **labels(n)}

    def latents(n: int) -> dict[str, Tensor]:
        return {"latents": torch.randn(n, model.latent_dim, generator=generator), **labels(n)}

    return {"encoder": Part(Encoder(model).eval(), images), "decoder": Part(Decoder(model).eval(), latents)}


def export(part: Part) -> torch.export.ExportedProgram:
    """The part as a program for any number of images."""
    # Exported twice, as a program keeps the parameters that it does not use: the other part's and the prior's.
    unused = _unused_parameters(_trace(part.module, part.inputs(2)))
    module = copy.deepcopy(part.module)
    for name in unused:
        owner, _, parameter = name.rpartition(".")
        delattr(module.get_submodule(owner), parameter)
    program = _trace(module, part.inputs(2))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which would name this machine's folders
    return program


def _trace(module: nn.Module, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    dynamic = {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}
    return torch.export.export(module, (), kwargs=inputs, dynamic_shapes=dynamic)


def _unused_parameters(program: torch.export.ExportedProgram) -> list[str]:
    parameters = program.graph_signature.inputs_to_parameters
    unused = (node.name for node in program.graph.nodes if node.op == "placeholder" and not node.users)
    return [parameters[name] for name in unused if name in parameters]


def write_torch(program: torch.export.ExportedProgram, part: Part, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file for `torch.export.load`."""
    with replacing(path) as file:
        torch.export.save(program, file, extra_files=dict(metadata))


def write_onnx(program: torch.export.ExportedProgram, part: Part, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file; inputs and outputs have names, the metadata is among its properties."""
    outputs = list(part.module.outputs)
    converted = torch.onnx.export(program, dynamo=True, output_names=outputs, verbose=False)
    converted.model.metadata_props.update(metadata)
    with replacing(path) as file:
        file.write(converted.model_proto.SerializeToString(deterministic=True))


def run_torch(path: Path, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """A program's outputs."""
    return [output.numpy() for output in torch.export.load(path).module()(**inputs)]


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """An ONNX file's outputs, computed by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


WRITERS = {"onnx": write_onnx, "torch": write_torch}
RUNNERS = {"onnx": run_onnx, "torch": run_torch}


@torch.no_grad()
def check(path: Path, part: Part, run: Callable[[Path, Mapping[str, Tensor]], list[np.ndarray]]) -> None:
    """Compare a file with the module it was made from; raises WorkError if they differ."""
    for n in (1, 5):
        inputs = part.inputs(n)
        for name, found, right in zip(part.module.outputs, run(path, inputs), part.module(**inputs), strict=True):
            if found.shape != right.shape or not np.allclose(found, right.numpy(), rtol=TOLERANCE, atol=TOLERANCE):
                raise WorkError(f"{path}: for {n} images, its {name} differs from the model's by more than {TOLERANCE}")


def export_model(form: str, source: Path, folder: Path) -> list[Path]:
    """Export the model in the file `source` in the format `form`, check the files and return their paths.

    Raises:
        InputError: the model cannot be read, or packages are missing.
        WorkError: the output of an exported file differs from the model's.
    """
    missing = [name for name in PACKAGES if form == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)}: not installed; run `pip install '.[export]'`")
    set_up("cpu")
    model = load(source)
    metadata = {"metadata": json.dumps(model.metadata, sort_keys=True)}
    paths = []
    for name, part in parts(model).items():
        paths.append(folder / f"{name}{ENDINGS[form]}")
        WRITERS[form](export(part), part, paths[-1], metadata)
        check(paths[-1], part, RUNNERS[form])
    return paths


def main() -> None:
    """Export the model in the format that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.export", description=__doc__.split("\n\n")[1])
    parser.add_argument("format", choices=ENDINGS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"for the files ({FOLDER})")
    arguments = parser.parse_args()
    try:
        paths = export_model(arguments.format, MODEL, arguments.folder)
    except (InputError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    for path in paths:
        print(path)


if __name__ == "__main__":
    main()
