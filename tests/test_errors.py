"""Errors: what they say and mean, which of them are about memory, and what messages must not show."""

import pytest
import torch

from vae.errors import (
    DamagedFile,
    FileError,
    InputError,
    Interrupted,
    MissingFile,
    SettingError,
    UnfitFile,
    memory_reason,
    printable,
    redact,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SettingError("train.step", "got 'x'"), "train.step: got 'x'"),
        (MissingFile("a.json"), "a.json: not found"),
        (DamagedFile("a.json", "too short"), "a.json: damaged (too short)"),
        (UnfitFile("a.json", "no model"), "a.json: no model"),
    ],
)
def test_a_wrong_input_names_its_key_or_file(error, message):
    assert isinstance(error, InputError)
    assert str(error) == message
    assert (error.path if isinstance(error, FileError) else error.key) == message.split(":")[0]


def test_an_interruption_is_no_failure_of_what_it_interrupts():
    error = Interrupted(15, "stopped")
    assert not isinstance(error, Exception)
    assert (error.status, str(error)) == (143, "stopped")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("not enough to read a.npz"), "not enough to read a.npz"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "CUDA out of memory."),
        (RuntimeError("std::bad_alloc"), "bad_alloc"),
        (RuntimeError("shapes do not match"), None),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), None),
    ],
)
def test_errors_about_memory_are_told_apart(error, reason):
    assert memory_reason(error) == reason


def test_torchs_error_on_the_cpu_is_about_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert "allocate memory" in memory_reason(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/mnist/", "https://host/mnist/"),
        ("see https://reader:secret@host/mnist/ again", "see https://***@host/mnist/ again"),
        ("https://host/mnist?token=secret", "https://host/mnist?***"),
        ("ftp://reader:se@cret@host/a", "ftp://***@host/a"),
    ],
)
def test_secrets_of_urls_are_hidden(text, shown):
    assert redact(text) == shown


def test_untrusted_text_becomes_one_short_line():
    assert printable("a\x1b[31m\nb") == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b"
    assert len(printable("x" * 1000)) == 200
    assert printable("x" * 200) == "x" * 200
