"""The exported encoder and decoder, run by torch and by onnxruntime."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.tools.conftest import CLASSES, IMAGE_SHAPE, run_settings
from tools.export import RUNNERS, WRITERS, check, export, export_model, main, parts
from vae.errors import WorkError
from vae.model import load, make_model, save
from vae.settings import parse_settings

pytestmark = pytest.mark.slow

NETWORKS = [{"network": name} for name in ("mlp", "gated_mlp", "conv", "resnet")]
POSTERIORS = [{"posterior": name} for name in ("full_covariance", "iaf", "coupling")]
OTHERS = [{"levels": "iwae"}, {"levels": "hvae"}, {"condition": "label"}, {"likelihood": "continuous_bernoulli"}]
SCALES = {"diagonal_normal": ["scale"], "full_covariance": ["scale_tril"], "iaf": [], "coupling": []}


@pytest.fixture(params=[*NETWORKS, *POSTERIORS, *OTHERS], ids=lambda keys: "-".join(keys.values()))
def saved(request, tmp_path):
    """The file of a small model with weights that are far from those of a start."""
    settings = run_settings(3)
    settings["model"] |= {"top_dim": 2, "flow_widths": [8], "inner_widths": [8]} | request.param
    if "likelihood" in request.param:
        settings["prepare"]["binarization"] = "none"
    settings = parse_settings(settings, "params.yaml").model
    torch.manual_seed(1)
    model = make_model(settings, IMAGE_SHAPE, len(CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    path = tmp_path / "model.safetensors"
    save(model, path, settings, {"classes": CLASSES})
    return path


def right_answers(model, images, latents, labels):
    """By the model's own methods, in the order of the encoder's outputs and then of the decoder's."""
    center = model.represent(images, labels)
    kind, levels = model.settings.posterior, model.settings.levels
    posterior = model.encode(images, labels)
    scales = {"diagonal_normal": lambda: posterior.variance.sqrt(), "full_covariance": lambda: posterior.scale_tril}
    encoded = [center, scales[kind]()] if levels == "one" and kind in scales else [center]
    return [encoded, [model.decode(latents, labels)]]


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_exported_parts_do_what_the_model_does(saved, form, tmp_path):
    paths = export_model(form, saved, tmp_path / "exported")
    model = load(saved)
    generator = torch.Generator().manual_seed(7)
    for n in (1, 4, 33):  # none of which the program was traced with
        images = torch.rand(n, *model.image_shape, generator=generator)
        latents = torch.randn(n, model.latent_dim, generator=generator)
        labels = torch.randint(0, len(CLASSES), (n,), generator=generator)
        shown = {"labels": labels} if model.classes else {}
        answers = right_answers(model, images, latents, labels if model.classes else None)
        for path, inputs, right in zip(paths, ({"images": images}, {"latents": latents}), answers, strict=True):
            found = RUNNERS[form](path, inputs | shown)
            for one, other in zip(found, right, strict=True):
                # The kernels add in another order: some units in the last of float32's 7 digits.
                np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-5)


@pytest.fixture
def small(tmp_path):
    """The file of one more small model, a multilayer perceptron."""
    settings = parse_settings(run_settings(3), "params.yaml").model
    torch.manual_seed(2)
    path = tmp_path / "data/model.safetensors"
    save(make_model(settings, IMAGE_SHAPE, len(CLASSES)), path, settings, {"classes": CLASSES})
    return path


def test_onnx_files_name_what_goes_in_and_comes_out(small, tmp_path):
    encoder, decoder = export_model("onnx", small, tmp_path)
    session = onnxruntime.InferenceSession(encoder)
    assert [found.name for found in session.get_inputs()] == ["images"]
    assert [found.name for found in session.get_outputs()] == ["center", "scale"]
    batch, *shape = session.get_inputs()[0].shape
    assert isinstance(batch, str) and shape == list(IMAGE_SHAPE)
    onnx.checker.check_model(onnx.load(decoder), full_check=True)
    weights = {tuple(found.dims) for found in onnx.load(encoder).graph.initializer}
    assert (8, 64) in weights and (64, 8) not in weights  # the encoder's first layer, not the decoder's last


def test_equal_models_make_equal_files_without_this_machines_folders(small, tmp_path):
    for form in ("onnx", "torch"):
        first, second = (export_model(form, small, tmp_path / name) for name in ("first", "second"))
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes()
            assert b"tools/export.py" not in one.read_bytes()


def test_a_file_of_another_model_is_detected(small, tmp_path):
    part = parts(load(small))["decoder"]
    path = tmp_path / "decoder.pt2"
    WRITERS["torch"](export(part), part, path, {})
    check(path, part, RUNNERS["torch"])
    other = copy.deepcopy(part.module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    with pytest.raises(WorkError, match=r"decoder\.pt2: for 1 images, its images differs"):
        check(path, part._replace(module=other), RUNNERS["torch"])


def test_a_model_that_was_never_saved_has_its_parts_too(small):
    saved = load(small)
    model = make_model(saved.settings, IMAGE_SHAPE, len(CLASSES)).eval()
    model.load_state_dict(saved.state_dict())
    for name, part in parts(model).items():
        inputs = part.inputs(3)
        for found, right in zip(part.module(**inputs), parts(saved)[name].module(**inputs), strict=True):
            torch.testing.assert_close(found, right)


def test_the_command_names_what_is_missing(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["export", "torch"])
    main()
    assert capsys.readouterr().out.split() == ["exported/encoder.pt2", "exported/decoder.pt2"]
    monkeypatch.setattr("sys.argv", ["export", "onnx"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "onnx, onnxruntime, onnxscript: not installed" in capsys.readouterr().err
    small.unlink()
    monkeypatch.setattr("sys.argv", ["export", "torch"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
