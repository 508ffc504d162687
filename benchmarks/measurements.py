"""What is measured, each as a list of rows: the contenders, how the cost grows, the evaluation.

Contenders take turns, one epoch per round, so that a machine that slows down does so for all of them; a time is the
median over the rounds and a ratio the median of the rounds' ratios. The matrix products that set the floor take a turn
in each round too. The images are made up: 19 % ink as in MNIST.
Speed does not depend on what they show.
"""

import io
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.contenders import (
    BARE,
    BARE_CAPTURED,
    CAPTURED,
    PYRO,
    Contender,
    Epoch,
    contenders,
    trainer_eager,
    trainer_graph,
)
from benchmarks.floor import Product, forward_flops, training_flops, wait
from vae.data.images import Split
from vae.device import matrix_precision, set_up
from vae.errors import WorkError
from vae.evaluation.likelihood import score
from vae.model import VAE, make_model
from vae.settings import Model, Train, load_settings

Row = dict[str, Any]
Products = dict[str, Product]  # the fastest of each precision

FLOOR = "(e) arithmetic floor"
ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1, 28, 28)
TEXTBOOK = {
    "network": "mlp",
    "prior": "standard_normal",
    "posterior": "diagonal_normal",
    "levels": "one",
    "likelihood": "bernoulli",
    "condition": "none",
}
# What else a model may be made of, each beside the textbook VAE with 400 hidden units and 50 latents.
FAMILY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "textbook": ({}, {}),
    "network gated_mlp": ({"network": "gated_mlp"}, {}),
    "network conv, 16 and 32 channels": (
        {"network": "conv", "encoder_widths": [16, 32], "decoder_widths": [32, 16]},
        {},
    ),
    "network resnet, 16 and 32 channels, one block each": (
        {"network": "resnet", "encoder_widths": [16, 32], "decoder_widths": [32, 16], "residual_blocks": 1},
        {},
    ),
    "prior gaussian_mixture, 500": ({"prior": "gaussian_mixture", "prior_components": 500}, {}),
    "prior vampprior, 500": ({"prior": "vampprior", "prior_components": 500}, {}),
    "prior realnvp, 6 layers": ({"prior": "realnvp", "prior_layers": 6}, {}),
    "prior spline, 6 layers": ({"prior": "spline", "prior_layers": 6}, {}),
    "posterior full_covariance": ({"posterior": "full_covariance"}, {}),
    "posterior iaf, 2 layers": ({"posterior": "iaf", "posterior_layers": 2}, {}),
    "posterior coupling, 2 layers": ({"posterior": "coupling", "posterior_layers": 2}, {}),
    "levels iwae": ({"levels": "iwae"}, {}),
    "levels hvae": ({"levels": "hvae"}, {}),
    "objective iwae, 5 draws": ({}, {"objective": "iwae", "particles": 5}),
    "objective dreg, 5 draws": ({}, {"objective": "dreg", "particles": 5}),
}
INK = 0.19
IMPORTANCE_SAMPLES = 500
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "tf32", "bfloat16")}


class Network(NamedTuple):
    """Networks with a batch size; on a CPU only one in `cpu_divisor` images is timed, to finish in minutes."""

    model: Model
    batch_size: int
    cpu_divisor: int = 1


def symmetric(latent_dim: int, widths: list[int], activation: Any) -> Model:
    """The textbook VAE with a decoder that mirrors its encoder; unused settings are as in params.yaml."""
    sizes = {"latent_dim": latent_dim, "encoder_widths": widths, "decoder_widths": widths[::-1]}
    return load_settings(ROOT / "params.yaml").model.model_copy(update=TEXTBOOK | sizes | {"activation": activation})


NETWORKS = {
    "784-400-50": Network(symmetric(50, [400], "softplus"), 256),  # Pyro's VAE example
    "784-200-200-50": Network(symmetric(50, [200, 200], "tanh"), 20),  # the IWAE paper's
    "784-1024-1024-64": Network(symmetric(64, [1024, 1024], "silu"), 1024, cpu_divisor=3),
}


def compare(device: torch.device, images: int, rounds: int, products: Products, memory: bool) -> Iterator[Row]:
    """Each network's contenders and its floor, times scaled to an epoch of `images`.

    With `memory` a row has `peak_mb`, the memory that building the contender and its first epoch took beside the data
    set: on CUDA that of the device, on a CPU the growth of the process (None if the system does not report it).
    """
    for name, network in NETWORKS.items():
        data = made_up_images(images // (network.cpu_divisor if device.type == "cpu" else 1), device)
        settings = training(network.batch_size, rounds)
        ready = {key: warmed_up(build, network.model, data, settings) for key, build in contenders(device).items()}
        runs = {key: epoch for key, (epoch, _) in ready.items()} | {FLOOR: products["float32"].on(device)}
        seconds = alternate(runs, rounds, device, name)
        flops = training_flops(VAE(network.model, SHAPE)) * len(data)
        seconds[FLOOR] = floor = _floor(flops, products["float32"], seconds[FLOOR])
        peaks = _peaks(name, len(data), {key: peak for key, (_, peak) in ready.items()}, device) if memory else {}
        for key, times in seconds.items():
            twin = BARE_CAPTURED if key in (CAPTURED, BARE_CAPTURED) else BARE
            yield {
                "network": name,
                "batch_size": network.batch_size,
                "contender": key,
                **_epoch_values(times, len(data), scaled_to=images),
                **_floor_values(floor, times, images / len(data)),
                "speed_up_over_pyro": _ratio(seconds[PYRO], times),
                "time_over_bare": _ratio(times, seconds[twin]),
                "peak_mb": peaks.get(key),
            }


def growth(device: torch.device, images: int, rounds: int, products: Products) -> Iterator[Row]:
    """The trainer's cost (captured on CUDA) as one thing at a time grows, the rest as in the first network.

    A row's epoch has its own number of images; a quarter of `images` on a CPU, unless that is what grows.
    """
    build = trainer_graph if device.type == "cuda" else trainer_eager
    ready, cases = {}, {}
    for case in _growth_cases(device, images):
        data, settings = made_up_images(case["images"], device), training(case["batch_size"], rounds, case["precision"])
        with matrix_precision(case["precision"]):  # on CUDA a captured step keeps it
            key = f"{case['axis']} {case['value']}"
            ready[key], _ = warmed_up(build, case["model"], data, settings)
            cases[key] = case
    ready |= {f"{FLOOR}, {precision}": product.on(device) for precision, product in products.items()}
    seconds = alternate(ready, rounds, device, "growth")
    for key, case in cases.items():
        model, precision, n = (case[name] for name in ("model", "precision", "images"))
        floor = _floor(training_flops(VAE(model, SHAPE)) * n, products[precision], seconds[f"{FLOOR}, {precision}"])
        values = _epoch_values(seconds[key], n, scaled_to=n) | _floor_values(floor, seconds[key])
        yield case | {"model": model.model_dump()} | values


def family(device: torch.device, images: int, rounds: int) -> Iterator[Row]:
    """The trainer's epoch (captured on CUDA) for each part of the model family; on a CPU of a twentieth of `images`.

    A part that fails has a row that says why under `failed`.
    """
    build = trainer_graph if device.type == "cuda" else trainer_eager
    data = made_up_images(images // (20 if device.type == "cpu" else 1), device)
    base, settings = NETWORKS["784-400-50"].model, training(256, rounds)
    ready = {}
    for name, (model, objective) in FAMILY.items():
        try:
            changed = settings.model_copy(update=objective)
            ready[name], _ = warmed_up(build, base.model_copy(update=model), data, changed)
        except (RuntimeError, WorkError) as error:  # the other parts can still be timed
            yield {"part": name, "failed": str(error).partition("\n")[0]}
    seconds = alternate(ready, rounds, device, "family")
    for name, times in seconds.items():
        values = _epoch_values(times, len(data), scaled_to=images)
        yield {"part": name, **values, "time_over_textbook": _ratio(times, seconds["textbook"])}


def evaluation(device: torch.device, images: int, rounds: int, products: Products) -> Iterator[Row]:
    """The importance-sampled log-likelihood, against the decoder's multiplications for every draw."""
    data = made_up_images(max(images // (6 if device.type == "cuda" else 600), 1), device)
    split = Split(data, torch.zeros(len(data), dtype=torch.int64, device=device))
    models = {name: VAE(network.model, SHAPE).to(device) for name, network in NETWORKS.items()}
    runs = {key: partial(_score_quietly, model, split) for key, model in models.items()}
    for run in runs.values():
        run()
    seconds = alternate(runs | {FLOOR: products["float32"].on(device)}, rounds, device, "evaluation")
    for name in models:
        draws, times = len(data) * IMPORTANCE_SAMPLES, seconds[name]
        floor = _floor(forward_flops(models[name].decoder) * draws, products["float32"], seconds[FLOOR])
        yield {
            "network": name,
            "images": len(data),
            "samples": IMPORTANCE_SAMPLES,
            "draws_per_second": draws / statistics.median(times),
            **_floor_values(floor, times),
            "seconds": times,
        }


def made_up_images(n: int, device: torch.device, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Draw at least one image with full contrast, the same ones each time; uint8 (n, channels, height, width)."""
    generator = torch.Generator().manual_seed(0)
    return ((torch.rand(max(n, 1), *shape, generator=generator) < INK).to(torch.uint8) * 255).to(device)


def training(batch_size: int, rounds: int, precision: Any = "float32") -> Train:
    """Adam at a constant rate, for one warm-up epoch and one per round."""
    plain = {
        "epochs": 1 + rounds,
        "batch_size": batch_size,
        "learning_rate": 0.001,
        "schedule": "constant",
        "objective": "elbo",
        "particles": 1,
        "beta": 1.0,
        "free_bits": 0.0,
        "kl_warmup_epochs": 0,
        "gradient_clip": 0.0,
        "ema_decay": 0.0,
        "precision": precision,
    }
    return load_settings(ROOT / "params.yaml").train.model_copy(update=plain)


def warmed_up(build: Contender, model: Model, images: Tensor, settings: Train) -> tuple[Epoch, float | None]:
    """Build an epoch, always from the same weights, and run it once; also the memory that it took on CUDA, in MB."""
    device, peak = images.device, None
    pyro.set_rng_seed(0)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    epoch = build(make_model(model, SHAPE, classes=10).to(device), images, settings)
    epoch()
    if device.type == "cuda":
        peak = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    return epoch, peak


def alternate(
    runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device, what: str
) -> dict[str, list[float]]:
    """The seconds of every run in every round; each contender takes one turn per round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), desc=what, unit="round", leave=False, disable=None):
        for name, run in runs.items():
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_resident(name: str, contender: str, images: int) -> float | None:
    """The resident memory that a contender's first epoch adds to this process on the CPU, in MB; None without Linux."""
    device, network = set_up("cpu"), NETWORKS[name]
    data, settings = made_up_images(images, device), training(network.batch_size, rounds=0)
    if contender == PYRO:
        data = data.float().div_(255)  # a data set like any other, so made before the measurement
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
        before = _resident("VmHWM")
        warmed_up(contenders(device)[contender], network.model, data, settings)
        return _resident("VmHWM") - before
    except OSError:
        return None


def _score_quietly(model: VAE, split: Split) -> None:
    with redirect_stderr(io.StringIO()):  # its progress bar would print one line per round
        score(model, split, IMPORTANCE_SAMPLES, seed=0)


def _resident(field: str) -> float:
    return int(re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def _peaks(name: str, images: int, on_device: dict[str, float | None], device: torch.device) -> dict[str, float | None]:
    if device.type == "cuda":
        return on_device
    # A new process for each, as in a shared one the contenders would reuse each other's memory.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        tasks = [(name, contender, images) for contender in on_device]
        return dict(zip(on_device, pool.starmap(peak_resident, tasks, chunksize=1), strict=True))


def _growth_cases(device: torch.device, images: int) -> Iterator[Row]:
    model, batch_size, _ = NETWORKS["784-400-50"]
    n = images if device.type == "cuda" else max(images // 4, 1)
    same = {"images": n, "batch_size": batch_size, "precision": "float32", "model": model}
    for size in (20, 64, 256, 1024, 8192):
        yield same | {"axis": "batch size", "value": size, "batch_size": size}
    for size in (10, 50, 250):
        yield same | {"axis": "latent size", "value": size, "model": symmetric(size, [400], "softplus")}
    for width in (100, 400, 1600):
        yield same | {"axis": "network width", "value": width, "model": symmetric(50, [width], "softplus")}
    for part in (max(images // 16, 1), max(images // 4, 1), images):
        yield same | {"axis": "data set size", "value": part, "images": part}
    for precision in PRECISIONS[device.type]:
        yield same | {"axis": "precision", "value": precision, "precision": precision}


def _floor(flops: float, product: Product, seconds: list[float]) -> list[float]:
    """The seconds that the FLOPs would take in each round, at the product's rate in that round."""
    return [flops * own / product.flops for own in seconds]


def _floor_values(floor: list[float], seconds: list[float], scale: float = 1) -> Row:
    return {"floor_ms": 1000 * statistics.median(floor) * scale, "share_of_floor": _ratio(floor, seconds)}


def _epoch_values(seconds: list[float], images: int, scaled_to: int) -> Row:
    median = statistics.median(seconds)
    return {
        "images": images,
        "ms_an_epoch": 1000 * median * scaled_to / images,
        "images_per_second": images / median,
        "seconds": seconds,
    }


def _ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(n / d for n, d in zip(numerators, denominators, strict=True))
