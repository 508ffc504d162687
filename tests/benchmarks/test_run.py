import json
import math
import multiprocessing
import os
import statistics

import pyro
import pytest
import torch
import yaml

from benchmarks import measurements, profile, report, run
from benchmarks.contenders import (
    AUTO,
    BARE,
    BARE_CAPTURED,
    CAPTURED,
    COMPILED,
    EAGER,
    PYRO,
    RECORDED,
    bare_loss,
    contenders,
    pyro_svi,
)
from benchmarks.floor import Product, fastest_product, forward_flops, training_flops
from tests.conftest import ROOT
from vae.device import matrix_precision
from vae.model import VAE
from vae.model.bounds import elbo_terms
from vae.training import gradients

CPU = torch.device("cpu")
ON_CPU = [PYRO, EAGER, RECORDED, BARE]  # but for those that a compiler takes seconds to make
PRODUCTS = {precision: Product((8, 8, 8), precision, rate=1e5) for precision in ("float32", "bfloat16")}
AXES = {
    "batch size": "batch_size",
    "latent size": "latent_dim",
    "network width": "widths",
    "data set size": "images",
    "precision": "precision",
}


@pytest.fixture
def images(digits):
    """150 digits, each pixel on or off, so that a draw of the pixels changes nothing: batches of 64, 64 and 22."""
    return (digits[:150] > 127).to(torch.uint8) * 255


@pytest.fixture
def settings(make_train):
    return make_train(epochs=50, schedule="constant", learning_rate=0.001)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setattr("benchmarks.contenders.compiler", lambda: None)


# --- Contenders


def test_the_hand_written_loss_is_the_trainers(make_model, digits):
    model, batch = make_model(spread=3.0), (digits[:50] > 127).float()
    torch.manual_seed(1)
    by_hand = bare_loss(model, batch)
    torch.manual_seed(1)
    terms = elbo_terms(model.model, model.guide, batch)
    # Sums of 50 x 64 float32 terms in another order: some 1e-6 of the whole.
    torch.testing.assert_close(by_hand, -terms.elbo.sum(), rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (by_hand, -terms.elbo.sum())]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_trainer_and_bare_pytorch_draw_the_same_and_go_the_same_way(make_model, settings, digits, device):
    build, losses = contenders(device), {}
    for name in [EAGER, BARE]:
        model = make_model().to(device)
        epoch = build[name](model, digits[:150].to(device), settings)
        pyro.set_rng_seed(2)
        losses[name] = [epoch() for _ in range(5)]
    # Rounding differs, and Adam makes a whole step of a gradient that is nothing but rounding.
    assert losses[EAGER] == pytest.approx(losses[BARE], rel=1e-4)
    assert losses[EAGER][-1] < losses[EAGER][0] - 1


def test_every_contender_has_the_same_mean_loss(make_model, make_train, images, device):
    still = make_train(epochs=30, schedule="constant", learning_rate=1e-12)
    means, errors = {}, {}
    for name, build in contenders(device).items():
        epoch = build(make_model(spread=3.0).to(device), images.to(device), still)
        losses = [epoch() for _ in range(20)]
        means[name], errors[name] = statistics.mean(losses), statistics.stdev(losses) / math.sqrt(20)
    for name, mean in means.items():
        # The difference of two means of 20 draws, at 6 of its standard errors.
        assert mean == pytest.approx(means[BARE], abs=6 * math.hypot(errors[name], errors[BARE]))


@pytest.mark.parametrize("name", [PYRO, EAGER, BARE])  # a record does not call the encoder
def test_an_epoch_shows_every_image_once_and_moves_the_parameters(name, make_model, settings, images):
    model = make_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    epoch = contenders(CPU)[name](model, images, settings)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    epoch()
    assert [len(batch) for batch in seen] == [64, 64, 22]
    rows, once = torch.cat(seen).flatten(1), images.flatten(1) / 127.5 - 1
    assert sorted(rows.tolist()) == sorted(once.tolist())
    assert not torch.equal(rows, once), "not shuffled"
    assert all(not torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_contenders_leave_pyros_settings_and_parameters_alone(make_model, settings, images):
    pyro.settings.set(module_local_params=True, validate_infer=False)
    pyro.param("mine", torch.ones(1))
    before = pyro.settings.get()
    for build in contenders(CPU).values():
        epoch = build(make_model(), images, settings)
        epoch(), epoch()
        assert pyro.settings.get() == before
        assert list(pyro.get_param_store()) == ["mine"]


def test_the_documented_pyro_validates_and_fills_the_parameter_store(make_model, settings, images):
    epoch, seen = pyro_svi(model := make_model(), images, settings), {}
    model.encoder.register_forward_pre_hook(
        lambda *_: seen.update(pyro.settings.get() | {"store": len(pyro.get_param_store())})
    )
    pyro.settings.set(module_local_params=True, validate_infer=False)
    epoch()
    assert seen["validate_infer"]
    assert seen["validate_distributions_torch"]
    assert seen["store"] == len(list(model.parameters()))


@pytest.mark.slow
@pytest.mark.skipif(gradients.compiler() is None, reason="there is no C++ compiler")
def test_compiled_contenders_learn_as_the_recorded_one(make_model, settings, images, monkeypatch):
    monkeypatch.setattr("benchmarks.contenders.compiler", lambda: "c++")
    build, last = contenders(CPU), {}
    for name in (RECORDED, COMPILED, AUTO):
        pyro.set_rng_seed(1)
        epoch = build[name](make_model(), images, settings)
        last[name] = [epoch() for _ in range(10)][-1]
    # The same draws: rounding is all that differs, as no product of this small network runs in bfloat16.
    assert last[COMPILED] == pytest.approx(last[RECORDED], rel=1e-3)
    assert last[AUTO] == pytest.approx(last[RECORDED], rel=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_captured_contenders_learn_as_the_eager_ones(make_model, settings, images):
    cuda = torch.device("cuda")
    last = {}
    for name, build in contenders(cuda).items():
        epoch = build(make_model().to(cuda), images.to(cuda), settings)
        last[name] = [epoch() for _ in range(10)][-1]
    # Draws differ: on 150 images of some 30 nats the loss is good to a nat.
    assert last[CAPTURED] == pytest.approx(last[EAGER], abs=2)
    assert last[BARE_CAPTURED] == pytest.approx(last[BARE], abs=2)


# --- The arithmetic floor


def test_flops_by_hand():
    model = VAE(measurements.NETWORKS["784-400-50"].model, (1, 28, 28))
    weights = 784 * 400 + 400 * 100 + 50 * 400 + 400 * 784
    assert forward_flops(model) == 2 * weights
    assert forward_flops(model.decoder) == 2 * (50 * 400 + 400 * 784)
    assert training_flops(model) == 6 * weights - 2 * 784 * 400 == 3_496_000


def test_matrix_products_leave_the_precision_as_it_was(monkeypatch):
    monkeypatch.setattr("benchmarks.floor._SQUARES", {"cpu": (64,)})
    monkeypatch.setattr("benchmarks.floor._LAYER", (32, 64, 16))
    monkeypatch.setattr("benchmarks.floor._LEAST_SECONDS", 0)
    product = fastest_product(CPU, "float32")
    product.on(CPU)()
    assert product.rate > 0
    assert product.flops in (2 * 64**3, 2 * 32 * 64 * 16)  # no least time: one product
    with pytest.raises(ZeroDivisionError), matrix_precision("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
        raise ZeroDivisionError
    assert not torch.backends.cuda.matmul.allow_tf32


# --- The run


@pytest.fixture
def quick(monkeypatch):
    """Matrix products, importance samples and launches that take no time, all in this process."""
    timing = {"seconds": 1.0, "threads": 1, "megabytes_per_step": None, "least_megabytes": 0.0}
    monkeypatch.setattr("benchmarks.ranks._launch", lambda *_: timing)
    monkeypatch.setattr(run, "in_own_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr("benchmarks.floor._SQUARES", {"cpu": (64,)})
    monkeypatch.setattr("benchmarks.floor._LEAST_SECONDS", 0)
    monkeypatch.setattr(measurements, "IMPORTANCE_SAMPLES", 7)


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.slow
def test_run_prints_its_tables_and_writes_every_timing(tmp_path, capsys, quick):
    before = pyro.settings.get()
    output = tmp_path / "results.json"
    arguments = ["--images", "512", "--rounds", "2", "--device", "cpu", "--no-memory", "--output", str(output)]
    assert run.main(arguments) == 0
    assert pyro.settings.get() == before

    results = json.loads(output.read_text())
    assert finite(results)
    assert set(results) == {
        "date",
        "command",
        "settings",
        "machine",
        "versions",
        "matrix_flops_per_second",
        *run.TABLES,
    }
    assert results["command"].startswith("python -m benchmarks.run --images 512 --rounds 2")
    assert results["settings"] == {"device": "cpu", "images": 512, "rounds": 2, "deterministic": True}
    assert set(results["machine"]) == {"processor", "cores", "threads", "gpu"}
    assert results["versions"]["torch"] == torch.__version__

    rows = results["networks"]
    assert [(row["network"], row["contender"]) for row in rows] == [
        (network, contender) for network in measurements.NETWORKS for contender in [*ON_CPU, "(e) arithmetic floor"]
    ]
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["ms_per_epoch"] == pytest.approx(statistics.median(row["seconds"]) * 1000 * 512 / row["images"])
        floor = next(other for other in rows[::-1] if other["network"] == row["network"])["seconds"]
        ratios = [own / time for own, time in zip(floor, row["seconds"], strict=True)]
        assert row["share_of_floor"] == pytest.approx(statistics.median(ratios))
    assert [row["speed_up_over_pyro"] for row in rows if row["contender"] == PYRO] == [1, 1, 1]
    assert [row["time_over_bare"] for row in rows if row["contender"] == BARE] == [1, 1, 1]
    assert {row["images"] for row in rows if row["network"] == "784-1024-1024-64"} == {512 // 3}

    assert {row["axis"] for row in results["growth"]} == set(AXES)
    assert [row["value"] for row in results["growth"] if row["axis"] == "data set size"] == [32, 128, 512]
    assert [row["samples"] for row in results["evaluation"]] == [7, 7, 7]
    assert {row["processes"] for row in results["ranks"]} == {1, 2}

    printed = capsys.readouterr().out
    assert printed.count("share of the floor |") == 3
    assert "784-1024-1024-64 was timed on 170 images and scaled" in printed
    for row in rows:
        assert f"{row['ms_per_epoch']:,.1f}" in printed


@pytest.fixture
def fail_where(monkeypatch):
    """Give a function: let what meets a condition fail, while it is made ready or at its second epoch; else instant."""

    def replace(condition, late=False):
        def make(build, model, images, settings):
            def epoch():
                if late and condition(build, model, settings):
                    raise RuntimeError("cannot be captured\nstack")

            if not late and condition(build, model, settings):
                raise RuntimeError("cannot be captured\nstack")
            return epoch, None

        monkeypatch.setattr(measurements, "warmed_up", make)

    return replace


def failures(rows):
    failed = [row for row in rows if "failed" in row]
    assert all(row["ms_per_epoch"] > 0 for row in rows if row not in failed)
    assert all(row["failed"] == "cannot be captured" and "ms_per_epoch" not in row for row in failed)
    return failed


@pytest.mark.parametrize("late", [False, True], ids=["made ready", "timed"])
def test_a_part_of_the_family_that_fails_is_a_row_that_says_so(fail_where, late):
    fail_where(lambda build, model, settings: model.prior == "spline", late)
    rows = list(measurements.family(CPU, 100, rounds=2))
    assert {row["part"] for row in rows} == set(measurements.FAMILY)
    assert [row["part"] for row in failures(rows)] == ["prior spline, 6 layers"]
    assert all("time_over_textbook" in row for row in rows if "failed" not in row)


def test_without_the_textbook_there_are_times_but_no_ratios(fail_where):
    textbook = measurements.symmetric(50, [400], "softplus")
    fail_where(lambda build, model, settings: model == textbook and settings.objective == "elbo")
    rows = list(measurements.family(CPU, 100, rounds=2))
    assert [row["part"] for row in failures(rows)] == ["textbook"]
    assert not any("time_over_textbook" in row for row in rows)


def test_a_family_that_fails_wholly_is_a_table_of_reasons(fail_where, tmp_path, monkeypatch, quick, capsys):
    fail_where(lambda *_: True)
    for name in ("compare", "growth", "evaluation"):
        monkeypatch.setattr(measurements, name, lambda *_: iter([]))
    monkeypatch.setattr(run, "scaling", lambda *_: iter([]))
    output = tmp_path / "results.json"
    assert run.main(["--images", "512", "--device", "cpu", "--no-memory", "--output", str(output)]) == 1
    assert len(failures(json.loads(output.read_text())["family"])) == len(measurements.FAMILY)
    assert capsys.readouterr().out.count("cannot be captured") == len(measurements.FAMILY)


@pytest.mark.parametrize("contender", ON_CPU)
def test_a_contender_that_fails_is_a_row_that_says_so(fail_where, contender):
    failing = contenders(CPU)[contender]
    fail_where(lambda build, model, settings: build is failing)
    rows = list(measurements.compare(CPU, 100, 2, PRODUCTS, memory=False))
    assert [row["contender"] for row in failures(rows)] == [contender] * 3
    timed = [row for row in rows if "failed" not in row]
    assert len(timed) == 3 * len(ON_CPU)  # the floor among them
    assert all(("speed_up_over_pyro" in row) == (contender != PYRO) for row in timed)
    assert all(("time_over_bare" in row) == (contender != BARE) for row in timed)


def test_a_case_of_the_growth_that_fails_is_a_row_that_says_so(fail_where):
    fail_where(lambda build, model, settings: settings.batch_size == 8192)
    rows = list(measurements.growth(CPU, 100, 2, PRODUCTS))
    (failed,) = failures(rows)
    assert (failed["axis"], failed["value"]) == ("batch size", 8192)
    json.dumps(rows)


def test_an_evaluation_that_fails_is_a_row_that_says_so(monkeypatch, quick):
    def score(model, split):
        if model.latent_dim == 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measurements, "_score_quietly", score)
    rows = list(measurements.evaluation(CPU, 600, 2, PRODUCTS))
    assert [row["network"] for row in rows if "failed" not in row] == ["784-400-50", "784-200-200-50"]
    assert rows[-1] == {"network": "784-1024-1024-64", "failed": "CUDA out of memory"}


def test_a_floor_that_fails_is_a_row_that_says_so_and_leaves_the_times(fail_where, monkeypatch):
    def fail(*_):
        raise RuntimeError("cannot be captured\nstack")

    fail_where(lambda *_: False)
    monkeypatch.setattr("benchmarks.floor._multiply", fail)
    monkeypatch.setattr(measurements, "_score_quietly", lambda *_: None)
    networks = list(measurements.compare(CPU, 100, 2, PRODUCTS, memory=False))
    growth = list(measurements.growth(CPU, 100, 2, PRODUCTS))
    evaluation = list(measurements.evaluation(CPU, 600, 2, PRODUCTS))
    assert [row["contender"] for row in failures(networks)] == [measurements.FLOOR] * 3
    assert [(row["axis"], row["value"]) for row in failures(growth)] == [
        (measurements.FLOOR, precision) for precision in PRODUCTS
    ]
    assert evaluation[-1] == {"network": measurements.FLOOR, "failed": "cannot be captured"}
    assert not any("share_of_floor" in row for row in networks + growth + evaluation)


@pytest.mark.slow
def test_a_table_whose_process_ends_or_raises_is_a_row_that_says_so():
    assert run.in_own_process(sorted, [2, 1]) == [1, 2]
    assert run.in_own_process(os._exit, 3)[0]["failed"].startswith("BrokenProcessPool: ")
    assert run.in_own_process(divmod, 1, 0)[0]["failed"].startswith("ZeroDivisionError: ")


def test_what_was_measured_before_a_failure_is_written(tmp_path, monkeypatch, quick):
    def fail(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(measurements, "family", fail)
    for name in ("compare", "growth"):
        monkeypatch.setattr(measurements, name, lambda *_: iter([]))
    output = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run.main(["--images", "512", "--device", "cpu", "--no-memory", "--output", str(output)])
    results = json.loads(output.read_text())
    assert results["networks"] == results["growth"] == []
    assert "family" not in results


def test_growth_varies_one_thing_at_a_time():
    base = {"images": 15_000, "batch_size": 256, "precision": "float32", "latent_dim": 50, "widths": [400, 400]}
    for case in measurements._growth_cases(CPU, 60_000):
        model = case["model"]
        case |= {"latent_dim": model.latent_dim, "widths": model.encoder_widths + model.decoder_widths}
        assert {key for key, value in base.items() if case[key] != value} <= {AXES[case["axis"]]}


def test_made_up_images_have_mnists_ink_and_stay_the_same():
    images = measurements.made_up_images(200, CPU)
    assert images.unique().tolist() == [0, 255]
    # 157 thousand draws: the standard error is 0.001.
    assert images.float().mean().item() / 255 == pytest.approx(0.19, abs=0.005)
    torch.testing.assert_close(measurements.made_up_images(200, CPU), images, rtol=0, atol=0)


def test_alternate_takes_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = measurements.alternate(runs, 3, CPU, "turns", failed={})
    assert order == list("ababab")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.slow
def test_peak_memory_counts_what_a_contender_holds():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(measurements.peak_resident, ("784-400-50", PYRO, 20_000))
    # The network, its gradients and the optimizer take some 10 MB, batches and buffers the rest; the images as floats,
    # which it is given, would be 63 MB.
    assert peak is None or 5 < peak < 63


def test_the_floor_is_at_the_rate_of_its_round():
    # A machine that gives a third of the speed in its second round: so does the product that takes its turn there.
    product = Product((5, 2, 5), "float32", rate=2000.0)
    assert (product.repetitions, product.flops) == (4, 400)  # 0.2 s at this rate
    floor = measurements._floor(1600.0, product, [0.1, 0.3, 0.1])
    assert floor == pytest.approx([0.4, 1.2, 0.4])
    values = measurements._floor_values(floor, [0.8, 2.4, 0.8], scale=2)
    assert values == pytest.approx({"floor_ms": 800, "share_of_floor": 0.5})


def test_plain_pyro_takes_images_that_are_floats_already(make_model, settings, images):
    losses = []
    for data in (images, images.float() / 255):
        pyro.set_rng_seed(1)
        losses.append(pyro_svi(make_model(), data, settings)())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("arguments", [["--images", "0"], ["--rounds", "few"], ["--device", "tpu"]])
def test_wrong_arguments_are_one_message(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert f"argument {arguments[0]}: invalid" in capsys.readouterr().err


def test_cuda_without_a_device_is_one_message(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err


# --- Files


def test_results_are_named_after_device_and_date(monkeypatch):
    assert report.file_name(CPU, "2030-01-31") == "cpu-2030-01-31.json"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200 (x)")
    assert report.file_name(torch.device("cuda"), "2030-01-31") == "nvidia-h200-x-2030-01-31.json"


# --- The profile


@pytest.mark.slow
def test_profile_prints_ten_operations_and_writes_a_trace(tmp_path, monkeypatch, capsys):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["download"]["dataset"] = "digits"
    values["model"] |= {"latent_dim": 3, "encoder_widths": [16], "decoder_widths": [16]}
    values["train"] |= {"batch_size": 8, "device": "cpu"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    before = pyro.settings.get()
    profile.main([])
    assert pyro.settings.get() == before

    printed = capsys.readouterr().out
    assert "160 images (made up" in printed
    assert "perfetto" in printed
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 10
    spent = [float(time) for _, time, _, _ in rows]
    assert spent == sorted(spent, reverse=True)
    events = json.loads((tmp_path / profile.TRACE).read_text())["traceEvents"]
    assert sum(event["name"] == "aten::addmm" for event in events) >= 20 * 4  # at least one per layer and step
