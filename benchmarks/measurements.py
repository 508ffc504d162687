"""What is measured, each as a list of rows: the contenders, how the cost grows, the evaluation.

Contenders take turns, one epoch per round, so that a machine that slows down does so for all of them; a time is the
median over the rounds and a ratio the median of the rounds' ratios. The matrix products that set the floor take a turn
in each round too. The images are made up: 19 % ink as in MNIST.
Speed does not depend on what they show.
"""

import importlib
import io
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
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
    "dropout": 0.0,
    "prior": "standard_normal",
    "posterior": "diagonal_normal",
    "clip_log_variance": False,
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
    "prior realnvp, 6 layers, learned mixing": ({"prior": "realnvp", "prior_layers": 6, "flow_mixing": "lu"}, {}),
    "prior spline, 6 layers": ({"prior": "spline", "prior_layers": 6}, {}),
    "posterior full_covariance": ({"posterior": "full_covariance"}, {}),
    "posterior iaf, 2 layers": ({"posterior": "iaf", "posterior_layers": 2}, {}),
    "posterior coupling, 2 layers": ({"posterior": "coupling", "posterior_layers": 2}, {}),
    "levels iwae": ({"levels": "iwae"}, {}),
    "levels hvae": ({"levels": "hvae"}, {}),
    "levels hvae_branched": ({"levels": "hvae_branched"}, {}),
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
    A contender that fails has a row that says why under `failed`, here as below.
    """
    for name, network in NETWORKS.items():
        data = made_up_images(images // (network.cpu_divisor if device.type == "cpu" else 1), device)
        settings = training(network.batch_size, rounds)
        ready, failed = {}, {}
        for key, build in contenders(device).items():
            with noted(failed, key):
                ready[key] = warmed_up(build, network.model, data, settings)
        runs = {key: epoch for key, (epoch, _) in ready.items()}
        with noted(failed, FLOOR):
            runs[FLOOR] = products["float32"].on(device)
        seconds = alternate(runs, rounds, device, name, failed)
        flops = training_flops(VAE(network.model, SHAPE)) * len(data)
        floor = _floor(flops, products["float32"], seconds.get(FLOOR, []))
        seconds |= {FLOOR: floor} if floor else {}
        peaks = _peaks(name, len(data), {key: peak for key, (_, peak) in ready.items()}, device) if memory else {}
        for key, times in seconds.items():
            twin = BARE_CAPTURED if key in (CAPTURED, BARE_CAPTURED) else BARE
            yield {
                "network": name,
                "batch_size": network.batch_size,
                "contender": key,
                **_epoch_values(times, len(data), scaled_to=images),
                **_floor_values(floor, times, images / len(data)),
                **({"speed_up_over_pyro": _ratio(seconds[PYRO], times)} if PYRO in seconds else {}),
                **({"time_over_bare": _ratio(times, seconds[twin])} if twin in seconds else {}),
                "peak_mb": peaks.get(key),
            }
        for key, reason in failed.items():
            yield {"network": name, "batch_size": network.batch_size, "contender": key, "failed": reason}


def growth(device: torch.device, images: int, rounds: int, products: Products) -> Iterator[Row]:
    """The trainer's cost (captured on CUDA) as one thing at a time grows, the rest as in the first network.

    A row's epoch has its own number of images; a quarter of `images` on a CPU, unless that is what grows.
    """
    build = trainer_graph if device.type == "cuda" else trainer_eager
    ready, failed = {}, {}
    cases = {f"{case['axis']} {case['value']}": case for case in _growth_cases(device, images)}
    for key, case in cases.items():
        data, settings = made_up_images(case["images"], device), training(case["batch_size"], rounds, case["precision"])
        # On CUDA a captured step keeps the precision.
        with noted(failed, key), matrix_precision(case["precision"]):
            ready[key], _ = warmed_up(build, case["model"], data, settings)
    floors = {precision: f"{FLOOR}, {precision}" for precision in products}
    for precision, key in floors.items():
        with noted(failed, key):
            ready[key] = products[precision].on(device)
    seconds = alternate(ready, rounds, device, "growth", failed)
    for key, case in cases.items():
        if key in failed:
            yield case | {"model": case["model"].model_dump(), "failed": failed[key]}
            continue
        model, precision, n = (case[name] for name in ("model", "precision", "images"))
        flops = training_flops(VAE(model, SHAPE)) * n
        floor = _floor(flops, products[precision], seconds.get(floors[precision], []))
        values = _epoch_values(seconds[key], n, scaled_to=n) | _floor_values(floor, seconds[key])
        yield case | {"model": model.model_dump()} | values
    for precision, key in floors.items():
        if key in failed:
            yield {"axis": FLOOR, "value": precision, "failed": failed[key]}


def family(device: torch.device, images: int, rounds: int) -> Iterator[Row]:
    """The trainer's epoch (captured on CUDA) for each part of the model family; on a CPU of a twentieth of `images`."""
    build = trainer_graph if device.type == "cuda" else trainer_eager
    data = made_up_images(images // (20 if device.type == "cpu" else 1), device)
    base, settings = NETWORKS["784-400-50"].model, training(256, rounds)
    ready, failed = {}, {}
    for name, (model, objective) in FAMILY.items():
        with noted(failed, name):
            changed = settings.model_copy(update=objective)
            ready[name], _ = warmed_up(build, base.model_copy(update=model), data, changed)
    seconds = alternate(ready, rounds, device, "family", failed)
    for name, times in seconds.items():
        values = _epoch_values(times, len(data), scaled_to=images)
        ratio = {"time_over_textbook": _ratio(times, seconds["textbook"])} if "textbook" in seconds else {}
        yield {"part": name, **values, **ratio}
    for name, reason in failed.items():
        yield {"part": name, "failed": reason}


def evaluation(device: torch.device, images: int, rounds: int, products: Products) -> Iterator[Row]:
    """The importance-sampled log-likelihood, against the decoder's multiplications for every draw."""
    data = made_up_images(max(images // (6 if device.type == "cuda" else 600), 1), device)
    split = Split(data, torch.zeros(len(data), dtype=torch.int64, device=device))
    models = {name: VAE(network.model, SHAPE).to(device) for name, network in NETWORKS.items()}
    runs, failed = {}, {}
    for name, model in models.items():
        run = partial(_score_quietly, model, split)
        with noted(failed, name):
            run()
            runs[name] = run
    with noted(failed, FLOOR):
        runs[FLOOR] = products["float32"].on(device)
    seconds = alternate(runs, rounds, device, "evaluation", failed)
    for name in [name for name in models if name not in failed]:
        draws, times = len(data) * IMPORTANCE_SAMPLES, seconds[name]
        flops = forward_flops(models[name].decoder) * draws
        floor = _floor(flops, products["float32"], seconds.get(FLOOR, []))
        yield {
            "network": name,
            "images": len(data),
            "samples": IMPORTANCE_SAMPLES,
            "draws_per_second": draws / statistics.median(times),
            **_floor_values(floor, times),
            "seconds": times,
        }
    for name, reason in failed.items():
        yield {"network": name, "failed": reason}


def made_up_images(n: int, device: torch.device, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Draw at least one image with full contrast, the same ones each time; uint8 (n, channels, height, width)."""
    generator = torch.Generator().manual_seed(0)
    return ((torch.rand(max(n, 1), *shape, generator=generator) < INK).to(torch.uint8) * 255).to(device)


def training(batch_size: int, rounds: int, precision: Any = "float32") -> Train:
    """Adam at a constant rate, for one warm-up epoch and one per round."""
    plain = {
        "epochs": 1 + rounds,
        "batch_size": batch_size,
        "shuffle": True,
        "learning_rate": 0.001,
        "schedule": "constant",
        "adam_beta1": 0.9,
        "weight_decay": 0.0,
        "kl": "exact",
        "objective": "elbo",
        "particles": 1,
        "beta": 1.0,
        "free_bits": 0.0,
        "kl_warmup_epochs": 0,
        "gradient_clip": 0.0,
        "normalize_gradients": False,
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


@contextmanager
def noted(failed: dict[str, str], name: str) -> Iterator[None]:
    """Note in `failed` why what runs inside failed, so that all else can still be timed."""
    try:
        yield
    except (RuntimeError, WorkError) as error:
        failed[name] = str(error).partition("\n")[0]


def alternate(
    runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device, what: str, failed: dict[str, str]
) -> dict[str, list[float]]:
    """The seconds of every run in every round; each contender takes one turn per round.

    One that fails is left out, and noted in `failed`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), desc=what, unit="round", leave=False, disable=None):
        for name, run in runs.items():
            if name in failed:
                continue
            with noted(failed, name):
                wait(device)
                start = time.perf_counter()
                run()
                wait(device)
                seconds[name].append(time.perf_counter() - start)
    return {name: times for name, times in seconds.items() if name not in failed}


def peak_resident(name: str, contender: str, images: int) -> float | None:
    """The resident memory that a contender's first epoch adds to this process on the CPU, in MB; None without Linux."""
    device, network = set_up("cpu"), NETWORKS[name]
    data, settings = made_up_images(images, device), training(network.batch_size, rounds=0)
    if contender == PYRO:
        data = data.float().div_(255)  # a data set like any other, so made before the measurement
    importlib.import_module("torch._dynamo")  # by a first step, and no part of what a contender holds
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
    """The floor's share, or nothing if its measurement failed."""
    if not floor:
        return {}
    return {"floor_ms": 1000 * statistics.median(floor) * scale, "share_of_floor": _ratio(floor, seconds)}


def _epoch_values(seconds: list[float], images: int, scaled_to: int) -> Row:
    median = statistics.median(seconds)
    return {
        "images": images,
        "ms_per_epoch": 1000 * median * scaled_to / images,
        "images_per_second": images / median,
        "seconds": seconds,
    }


def _ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(n / d for n, d in zip(numerators, denominators, strict=True))
