import pytest
import torch

from tests.conftest import as_split
from vae.evaluation.likelihood import score

pytestmark = pytest.mark.usefixtures("lean")

SHORT = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate"),
}


@pytest.fixture
def let_memory_run_out(monkeypatch):
    """Give a function: let a decoder find no memory for more than `most` latents; gives the numbers that it decoded."""

    def limit(model, most, error=SHORT["CUDA"]):
        decode, sizes = model.decoder.forward, []

        def forward(latents):
            rows = latents.shape[:-1].numel()
            if rows > most:
                raise error()
            sizes.append(rows)
            return decode(latents)

        monkeypatch.setattr(model.decoder, "forward", forward)
        return sizes

    return limit


@pytest.mark.fault
@pytest.mark.parametrize("error", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize(
    "keys", [{}, {"network": "conv", "encoder_widths": [4], "decoder_widths": [4]}, {"levels": "hvae"}], ids=str
)
def test_short_memory_changes_no_draw(make_model, digits, let_memory_run_out, capsys, keys, error):
    model, split = make_model(spread=2, condition="label", **keys), as_split(digits[:50], torch.arange(50) % 10)
    plenty = score(model, split, samples=150, seed=0)
    assert not capsys.readouterr().out
    sizes = let_memory_run_out(model, 300, error)
    short = score(model, split, samples=150, seed=0)
    # 20 images of 100 draws, halved thrice; then 50 draws of them, and so on for 20 and for 10 images.
    assert sizes == 2 * ([250] * 8 + [250] * 4) + [250] * 4 + [250] * 2
    assert capsys.readouterr().out.splitlines() == [
        f"low on memory: decoding {most:,} images at a time" for most in (1000, 500, 250)
    ]
    for expected, actual in zip(plenty, short, strict=True):
        # Products of fewer rows may sum in another order: float32's 6e-8 in some ten terms, of sums of up to 100 nats,
        # which the weights, and with them the effective samples, magnify as exp does.
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def test_no_memory_for_a_single_image_is_told(make_model, digits, let_memory_run_out):
    model = make_model()
    decoder = model.decoder
    let_memory_run_out(model, 0)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        score(model, as_split(digits[:5]), samples=3, seed=0)
    assert model.decoder is decoder


def test_other_errors_are_not_taken_for_short_memory(make_model, digits, let_memory_run_out, capsys):
    model = make_model()
    let_memory_run_out(model, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        score(model, as_split(digits[:5]), samples=3, seed=0)
    assert not capsys.readouterr().out
