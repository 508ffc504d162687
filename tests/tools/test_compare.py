"""Two runs side by side."""

import io
import re
import shutil

import matplotlib.image
import numpy as np
import pytest
import torch

from tests.browser import needs_chromium, visit
from tests.tools.conftest import IMAGES, values_by_image
from tools.compare import changed_settings, compare, main, metric_rows, paired_difference, tile
from tools.revisions import open_run
from vae.files import read_arrays, read_tensors, write_arrays, write_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(project):
    """The pages of pairs of revisions, each made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        pairs = [("first", "second"), ("first", "redrawn"), ("tuned", "workspace")]
        return {pair: compare(*map(open_run, pair)) for pair in pairs}


def cells(page, key):
    """The texts of the table's row of a metric."""
    row = next(row for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if f"<code>{key}</code>" in row)
    texts = [re.sub(r"<[^>]+>", " ", cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]
    return [" ".join(text.split()) for text in texts]


def test_a_difference_is_paired_over_images():
    first, second = values_by_image(1)["nll"], values_by_image(2)["nll"]
    differences = [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / IMAGES
    variance = sum((difference - mean) ** 2 for difference in differences) / (IMAGES - 1)
    # float64 on both sides, added in another order.
    assert paired_difference(first, second) == pytest.approx((mean, (variance / IMAGES) ** 0.5), rel=1e-12)
    # What the images share cancels: as independent means the two would be some 30 times less certain.
    assert paired_difference(first, second)[1] < np.hypot(first.std(), second.std()) / IMAGES**0.5 / 10


def test_a_metric_has_an_error_only_where_its_images_belong_to_it():
    first, second = {"nll": np.array([1.0, 2.0, 3.0])}, {"nll": np.array([2.0, 3.0, 6.0])}
    metrics = {"test_nll": 2.0, "kl": 1.0}, {"test_nll": 3.6667, "kl": 1.5, "new": 2}
    paired, alone, unknown = metric_rows(*metrics, first, second)
    # Differences 1, 1, 3: mean 5/3, standard deviation 2/sqrt(3), error 2/3, 2.5 errors.
    assert (paired.key, paired.difference, paired.error, paired.ratio) == ("test_nll", "+1.67", "0.67", "+2.5")
    assert (alone.key, alone.difference, alone.error, alone.ratio) == ("kl", "+0.50", "", "")
    assert (unknown.key, unknown.first, unknown.second, unknown.difference) == ("new", "", "2", "")
    stale = metric_rows({"test_nll": 2.5}, metrics[1], first, second)
    assert (stale[0].difference, stale[0].error) == ("+1.17", "")


def test_settings_that_differ_are_those_with_another_value():
    first = {"model.network": "mlp", "train.beta": 1, "train.old": True, "model.widths": [8, 8]}
    second = {"model.network": "mlp", "train.beta": 1.0, "model.widths": [8]}
    assert changed_settings(first, second) == [("train.old", "true", ""), ("model.widths", "8, 8", "8")]


def test_the_page_shows_metrics_settings_curves_and_pictures(pages):
    page = pages["first", "second"]
    first, second = values_by_image(1)["nll"].astype(float), values_by_image(2)["nll"].astype(float)
    error = (second - first).std(ddof=1) / IMAGES**0.5
    before, after, difference = cells(page, "test_nll")
    assert (float(before), float(after)) == pytest.approx((first.mean(), second.mean()), abs=0.0051)
    assert difference == f"+{(second - first).mean():.3f} ± {error:.3f} +{(second - first).mean() / error:.1f} s.e."
    assert cells(page, "active_units") == ["3", "3", "+0"]
    assert cells(page, "model.latent_dim") == ["2", "3"]
    assert len(re.findall("<img ", page)) == 1 + 3 + 2
    assert 'class="note"' not in page


def test_the_page_needs_nothing_else_and_escapes_names(pages):
    for page in pages.values():
        assert "<script" not in page and "http" not in page.replace("http-equiv", "")
        assert "surprise_&lt;b&gt;" in page and "surprise_<b>" not in page


def test_other_test_images_leave_the_differences_unpaired_and_a_note_says_so(pages):
    page = pages["first", "redrawn"]
    assert "differ in the images of data/prepared/test.safetensors" in page
    assert "±" not in re.sub(r"<p.*?</p>", "", page, flags=re.DOTALL) and "stand alone" in page
    assert len(re.findall("<img ", page)) == 1 + 2  # no reconstructions


def test_an_experiment_and_the_workspace_are_runs_too(pages):
    page = pages["tuned", "workspace"]
    assert "None." in page  # the settings are the same
    before, after, difference = cells(page, "test_nll")
    assert before == after and difference.startswith("+0.00")


def test_what_the_cache_has_lost_is_left_out_and_named(project, tmp_path, monkeypatch):
    copy = shutil.copytree(project, tmp_path / "copy")
    shutil.rmtree(copy / ".dvc/cache/files")
    shutil.rmtree(copy / ".dvc/tmp")
    monkeypatch.chdir(copy)
    page = compare(open_run("first"), open_run("second"))
    assert cells(page, "test_nll")[2] and "<img " not in page
    for name in ("data/prepared/test.safetensors", "plots/history.csv", "data/model.safetensors"):
        assert f"first: {name} " in page
    assert "dvc fetch --all-commits" in page and "dvc exp apply first" in page


def rows_lost(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def values_lost(path):
    write_arrays(path, {name: values[1:] for name, values in read_arrays(path).items()})


def labels_lost(path):
    tensors, metadata = read_tensors(path)
    write_tensors(path, {"images": tensors["images"]}, metadata)


def enlarged(path):
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors | {"images": tensors["images"].repeat(1, 1, 1, 2)}, metadata)


@pytest.mark.parametrize(
    ("name", "change", "note"),
    [
        ("plots/history.csv", rows_lost, "There are no curves: workspace: plots/history.csv: 0 rows, expected"),
        ("plots/history.csv", cut, "There are no curves: workspace: plots/history.csv: row 2 does not have"),
        ("data/latents.npz", cut, "The differences have no standard errors: workspace: data/latents.npz: damaged"),
        ("data/latents.npz", values_lost, "The differences have no standard errors: workspace: data/latents.npz: elbo"),
        ("data/model.safetensors", cut, "There are no pictures: workspace: data/model.safetensors: damaged"),
        ("data/prepared/test.safetensors", labels_lost, "workspace: data/prepared/test.safetensors: it holds images,"),
    ],
)
def test_a_file_that_is_damaged_or_does_not_fit_is_left_out_and_named(
    project, tmp_path, monkeypatch, name, change, note
):
    copy = shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(copy)
    change(copy / name)
    page = compare(open_run("tuned"), open_run("workspace"))
    assert note in page
    assert cells(page, "test_nll")[2]


def test_test_images_that_the_models_do_not_fit_are_not_reconstructed(project, tmp_path, monkeypatch):
    copy = shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(copy)
    enlarged(copy / "data/prepared/test.safetensors")
    page = compare(open_run("workspace"), open_run("workspace"))
    assert "There are no reconstructions: data/model.safetensors does not fit data/prepared/test.safetensors" in page
    assert len(re.findall("<img ", page)) == 1 + 2  # curves and samples


def test_the_command_writes_a_page_or_refuses(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    output = tmp_path / "pages/both.html"
    monkeypatch.setattr("sys.argv", ["compare", "first", "second", "--output", str(output)])
    main()
    assert output.read_text().startswith("<!DOCTYPE html>")
    for revisions, message in {("nothing", "first"): "nothing: ", ("HEAD", "HEAD~3"): "HEAD~3: "}.items():
        monkeypatch.setattr("sys.argv", ["compare", *revisions])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert f"error: {message}" in capsys.readouterr().err


def test_a_revision_without_metrics_is_refused(project, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(project, tmp_path / "copy")
    shutil.rmtree(copy / "metrics")
    monkeypatch.chdir(copy)
    monkeypatch.setattr("sys.argv", ["compare", "workspace", "first"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "workspace: no metrics/*.json" in capsys.readouterr().err


def test_images_are_tiled_row_by_row():
    images = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2) / 2
    pixels = matplotlib.image.imread(io.BytesIO(tile(images, 2)))[..., 0]
    assert pixels.shape == (5, 5)
    assert pixels[:2, :2].max() == 0 and pixels[3:, :2].min() == 1
    # Half of 255 is stored as 127 or 128.
    assert np.abs(pixels[:2, 3:] - 0.5).max() < 1 / 255
    assert pixels[3:, 3:].min() == 1  # an empty place is white


@needs_chromium
def test_the_page_fits_a_telephone_and_asks_for_nothing(pages, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(pages["first", "second"])
    widest = "Math.max(...[...document.querySelectorAll('body *')].map(e => e.getBoundingClientRect().right))"
    found = visit(path.as_uri(), tmp_path, widest, width=390)
    assert found.answers[0] <= 390
    assert not found.failures and not found.complaints
    assert all(address.startswith(("file:", "data:")) for address in found.requests)
