"""Model files that earlier versions wrote still load; those of a later version say so."""

import json
from pathlib import Path

import pytest
import torch

import vae
from vae import files
from vae.errors import InputError

FOLDER = Path(__file__).parent
OLD = sorted(FOLDER.glob("*.safetensors"))
# Float32 of another machine, after the rounding of the recorded numbers to six decimals.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def test_there_is_an_old_model() -> None:
    assert OLD


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_model_of_an_earlier_version_means_what_it_meant(path: Path) -> None:
    recorded = {
        name: torch.tensor(values) for name, values in json.loads(path.with_suffix(".json").read_text()).items()
    }
    model = vae.load(path)
    assert model.image_shape == (1, 8, 8)
    posterior = model.encode(recorded["images"].float().reshape(-1, *model.image_shape))
    latents = recorded["latents"]
    found = {
        "posterior_mean": posterior.mean,
        "posterior_stddev": posterior.stddev,
        "decoded": model.decode(latents).flatten(1),
        "prior_log_density": model.prior().log_prob(latents),
    }
    for name, values in found.items():
        torch.testing.assert_close(values, recorded[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    assert model.sample(3, seed=0).shape == (3, 1, 8, 8)


def test_a_model_of_a_later_version_says_so(tmp_path: Path) -> None:
    weights, metadata = files.read_tensors(OLD[0])
    path = tmp_path / "model.safetensors"
    # Such a file may lack anything that this version knows of.
    files.write_tensors(path, weights, {"format": 1000, "shape_of_images": metadata["image_shape"]})
    with pytest.raises(InputError, match=r"model\.safetensors: .*newer version.*format 1000"):
        vae.load(path)
