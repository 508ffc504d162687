import csv
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.torch import save_file

from tests.conftest import linux_only, posix_only
from vae.errors import InputError
from vae.files import (
    read_arrays,
    read_tensors,
    readable,
    replacing,
    write_arrays,
    write_csv,
    write_json,
    write_tensors,
)

ROOT = Path(__file__).resolve().parents[1]
VALUES = {"kl": 24.5, "epoch": 3, "name": "mnist"}
ROWS = [{"epoch": 1, "elbo": -150.25, "label": "T-shirt, red"}, {"epoch": 2, "elbo": -9.5e-05, "label": 'a "b"\nü'}]
ARRAYS = {"images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "mean": np.float32([[0.1, -math.inf]])}
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "labels": torch.tensor([7, -1]), "pixels": torch.tensor([[255]])}
METADATA = {"dataset": "mnist", "classes": ["0", "1"], "nested": {"b": 1, "a": [0.1, None, True, "ü"]}}
WRITERS = {
    "json": lambda path: write_json(path, VALUES),
    "csv": lambda path: write_csv(path, ROWS),
    "npz": lambda path: write_arrays(path, ARRAYS),
    "safetensors": lambda path: write_tensors(path, TENSORS, METADATA),
}
READERS = {"npz": read_arrays, "safetensors": read_tensors}

# No database of failures, as every run should be like the first; no deadline, as the machine may be busy.
many = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def python(code, *arguments, **environment):
    """Start Python on code that begins with `from vae.files import *`."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from vae.files import *\n{code}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value)


def assert_damaged(read, path):
    message = refusal(read, path)
    assert re.fullmatch(rf"{re.escape(str(path))}: damaged \(.+\)", message, re.DOTALL)
    assert "allow_pickle" not in message or "allow_pickle=False" in message


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of an undamaged file, by format."""
    folder = tmp_path_factory.mktemp("whole")
    for kind, write in WRITERS.items():
        write(folder / kind)
    return contents(folder)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Where a test writes one damaged file after another."""
    return tmp_path_factory.mktemp("damaged") / "file"


# Atomic writes


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "file").write_bytes(b"old and longer")
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_missing_parents_are_made(tmp_path):
    with replacing(tmp_path / "a/b/file") as file:
        file.write(b"new")
    assert contents(tmp_path) == {"a/b/file": b"new"}


def test_the_old_file_stays_readable_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "file").read_bytes() == b"old"
        assert Path(file.name).parent == tmp_path  # a move from elsewhere might be a copy, half of it at times


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(error), replacing(tmp_path / "file") as file:
        file.write(b"half of the n")
        raise error
    assert contents(tmp_path) == {"file": b"old"}


def test_an_error_before_the_first_version_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not finite"), replacing(tmp_path / "file"):
        raise ValueError("not finite")
    assert contents(tmp_path) == {}


def test_what_a_killed_process_left_is_written_over(tmp_path):
    with replacing(tmp_path / "file") as file:
        temporary = Path(file.name)
    temporary.write_bytes(b"stale, and longer than what comes")
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert contents(tmp_path) == {"file": b"new"}


@pytest.mark.fault
@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    code = """
import sys, time
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = python(code, tmp_path / "file")
    with writer:
        assert writer.stdout.readline() == "writing\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert (tmp_path / "file").read_bytes() == b"old"
    write_json(tmp_path / "file", VALUES)
    assert list(contents(tmp_path)) == ["file"]


@pytest.mark.fault
def test_processes_that_write_one_file_at_once_do_not_share_a_temporary_one(tmp_path):
    code = """
import sys
content = sys.argv[2].encode() * 1_000_000
for _ in range(100):
    with replacing(sys.argv[1]) as file:
        file.write(content[:500_000])
        file.flush()
        file.write(content[500_000:])
"""
    writers = [python(code, tmp_path / "file", letter) for letter in "abc"]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert errors == [""] * 3
    assert contents(tmp_path)["file"] in [letter * 1_000_000 for letter in (b"a", b"b", b"c")]
    assert list(contents(tmp_path)) == ["file"]


@posix_only  # on Windows such files are never removed
def test_the_temporary_file_of_a_living_process_is_left_alone_until_it_is_dead(tmp_path):
    code = "import sys\nwith replacing(sys.argv[1]) as file:\n  print('writing', flush=True); input()"
    writer = subprocess.Popen(
        [sys.executable, "-c", f"from vae.files import *\n{code}", str(tmp_path / "other")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout.readline() == "writing\n"
        write_json(tmp_path / "file", VALUES)
        assert len(contents(tmp_path)) == 2
        writer.kill()
    write_json(tmp_path / "file", VALUES)
    assert list(contents(tmp_path)) == ["file"]


@linux_only
@pytest.mark.fault
@pytest.mark.parametrize("kind", WRITERS)
def test_a_limit_on_the_size_of_files_names_the_file_and_keeps_the_old_one(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"old")
    code = f"""
import resource, sys
import numpy, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
noise = numpy.random.default_rng(0).integers(256, size=5000, dtype=numpy.uint8)
write = dict(
    json=lambda path: write_json(path, dict(noise=noise.tolist())),
    csv=lambda path: write_csv(path, [dict(a=a) for a in noise.tolist()]),
    npz=lambda path: write_arrays(path, dict(noise=noise)),
    safetensors=lambda path: write_tensors(path, dict(noise=torch.from_numpy(noise)), dict()),
)[{kind!r}]
try:
    write(sys.argv[1])
except OSError as error:
    print(error.errno, error.filename)
"""
    output, error = python(code, tmp_path / "file").communicate(timeout=120)
    assert (output, error) == (f"27 {tmp_path / 'file'}\n", "")
    assert contents(tmp_path) == {"file": b"old"}


# Equal contents, equal bytes


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    code = """
import sys, numpy, torch
folder = sys.argv[1]
names = set("abcdefghijklmnopqrstuvwxyz")  # in another order for each hash seed
tensors = {name: torch.full((2, 3), float(ord(name))) for name in names}
write_json(f"{folder}/json", {"kl": 0.1 + 0.2, "name": "ü"})
write_csv(f"{folder}/csv", [{"elbo": 0.1 + 0.2, "name": "ü"}])
write_arrays(f"{folder}/npz", {"x": numpy.arange(1000) / 7, "y": numpy.zeros((50, 50), numpy.float32)})
write_tensors(f"{folder}/safetensors", tensors, {name: {"z": 1, "a": name} for name in names})
print(*names)
"""
    writers = [python(code, tmp_path / seed, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    orders, errors = zip(*(writer.communicate(timeout=120) for writer in writers), strict=True)
    assert not any(errors)
    assert orders[0] != orders[1]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert sorted(contents(tmp_path / "1")) == sorted(WRITERS)


@pytest.mark.parametrize("kind", WRITERS)
def test_neither_the_name_nor_the_clock_is_in_the_bytes(tmp_path, monkeypatch, kind, whole):
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: pytest.fail("asked for the time"))
    WRITERS[kind](tmp_path / "another.name")
    assert (tmp_path / "another.name").read_bytes() == whole[kind]


# Round trips


@given(
    values=st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    )
)
@many
def test_json_comes_back_as_it_was(damaged, values):
    write_json(damaged, values)
    text = damaged.read_text("utf-8")
    assert text.endswith("\n")
    assert json.loads(text) == values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), [1.0, math.nan], {"a": math.nan}])
def test_json_refuses_numbers_that_are_not_finite(tmp_path, value):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"kl": 1.0, "elbo": value})
    assert contents(tmp_path) == {"file": b"old"}


def test_csv_has_a_header_unix_line_ends_and_quotes_where_needed(tmp_path):
    write_csv(tmp_path / "file", ROWS)
    assert (tmp_path / "file").read_bytes() == (
        'epoch,elbo,label\n1,-150.25,"T-shirt, red"\n2,-9.5e-05,"a ""b""\nü"\n'.encode()
    )


@given(numbers=st.lists(st.floats(), min_size=1))
@many
def test_csv_gives_every_number_back_to_the_last_bit(damaged, numbers):
    write_csv(damaged, [{"epoch": epoch, "elbo": number} for epoch, number in enumerate(numbers)])
    with damaged.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(len(numbers)))
    np.testing.assert_array_equal([float(row["elbo"]) for row in rows], numbers)


def test_csv_refuses_a_row_with_a_column_that_the_header_lacks(tmp_path):
    with pytest.raises(ValueError, match="elbo"):
        write_csv(tmp_path / "file", [{"epoch": 1}, {"epoch": 2, "elbo": -1.0}])
    assert contents(tmp_path) == {}


@given(
    array=arrays_of.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_]),
        arrays_of.array_shapes(min_dims=0, min_side=0),
    )
)
@many
def test_arrays_come_back_as_they_were(damaged, array):
    write_arrays(damaged, {"a": array, "b": ARRAYS["images"]})
    back = read_arrays(damaged)
    assert list(back) == ["a", "b"]
    assert back["a"].dtype == array.dtype
    np.testing.assert_array_equal(back["a"], array)


def test_arrays_of_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(tmp_path / "file", {"x": np.array([{}], dtype=object)})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64, torch.bfloat16, torch.bool])
def test_tensors_and_metadata_come_back_as_they_were(tmp_path, dtype):
    tensors = {"plain": torch.arange(6).reshape(2, 3).to(dtype), "scalar": torch.ones((), dtype=dtype)}
    tensors |= {"transposed": tensors["plain"].T, "empty": tensors["plain"][:0]}
    write_tensors(tmp_path / "file", tensors, METADATA)
    back, metadata = read_tensors(tmp_path / "file")
    assert metadata == METADATA
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], tensor)


def test_parameters_are_written_without_their_gradient(tmp_path):
    write_tensors(tmp_path / "file", {"weight": torch.nn.Parameter(torch.ones(2))}, {})
    assert not read_tensors(tmp_path / "file")[0]["weight"].requires_grad


def test_tensors_that_were_read_outlive_their_file(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, METADATA)
    back, _ = read_tensors(tmp_path / "file")
    write_tensors(tmp_path / "file", {name: tensor * 0 for name, tensor in TENSORS.items()}, METADATA)
    (tmp_path / "file").unlink()
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())


@linux_only
def test_tensors_that_were_read_take_no_memory_of_the_process(tmp_path):
    def anonymous():
        return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    size = 60_000_000
    write_tensors(tmp_path / "file", {"large": torch.ones(size, dtype=torch.uint8)}, {})
    before = anonymous()
    tensors, _ = read_tensors(tmp_path / "file")
    assert tensors["large"].sum() == size
    assert anonymous() - before < size / 5


def test_metadata_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_tensors(tmp_path / "file", TENSORS, {"elbo": math.nan})
    assert contents(tmp_path) == {}


# Files that are missing or damaged


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_is_reported_by_name(tmp_path, kind):
    path = tmp_path / "no/such/file"
    assert refusal(READERS[kind], path) == f"{path}: not found"


@pytest.mark.parametrize("kind", READERS)
def test_a_folder_in_the_files_place_is_damage(tmp_path, kind):
    assert_damaged(READERS[kind], tmp_path)


@pytest.mark.parametrize("kind", READERS)
def test_a_file_cut_off_anywhere_is_damaged(damaged, whole, kind):
    length = len(whole[kind])
    for end in {*range(0, length, max(length // 60, 1)), 1, 7, 8, 9, length - 1}:
        damaged.write_bytes(whole[kind][:end])
        assert_damaged(READERS[kind], damaged)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.binary(max_size=200))
@example(data=b"")
@example(data=b"\x08\0\0\0\0\0\0\0{}      ")
@example(data=b"\xff" * 8)
@example(data=b"PK\x05\x06" + b"\0" * 18)
@example(data=b"PK\x03\x04" + b"\0" * 50)
@example(data=b"\x93NUMPY\x01\0")
@example(data=pickle.dumps([1]))
@many
def test_any_other_bytes_are_damage_or_an_empty_archive(damaged, kind, data):
    damaged.write_bytes(data)
    if kind == "npz" and zipfile.is_zipfile(damaged):
        assert read_arrays(damaged) == {}
    else:
        assert_damaged(READERS[kind], damaged)


@pytest.mark.fault
@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@many
def test_any_wrong_byte_is_damage_or_does_no_harm(damaged, whole, kind, data):
    place = data.draw(st.integers(0, len(whole[kind]) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged.write_bytes(whole[kind][:place] + bytes([byte]) + whole[kind][place + 1 :])
    try:
        READERS[kind](damaged)
    except InputError:
        assert_damaged(READERS[kind], damaged)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("other", WRITERS)
def test_a_file_of_another_format_is_damaged(damaged, whole, kind, other):
    damaged.write_bytes(whole[other])
    if kind == other:
        READERS[kind](damaged)
    else:
        assert_damaged(READERS[kind], damaged)


class Trap:
    """Unpickling one leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.fault
@pytest.mark.parametrize("wrapping", ["array in npz", "array alone", "pickle alone", "pickle in zip", "torch"])
@pytest.mark.parametrize("kind", READERS)
def test_a_pickle_is_never_executed(tmp_path, kind, wrapping):
    trap, path = Trap(tmp_path / "executed"), tmp_path / "file"
    with path.open("wb") as file:
        if wrapping == "array in npz":
            np.savez(file, x=np.array([trap], dtype=object))
        elif wrapping == "array alone":
            np.save(file, np.array([trap], dtype=object))
        elif wrapping == "pickle alone":
            pickle.dump(trap, file)
        elif wrapping == "torch":
            torch.save(trap, file)
        else:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("x.pkl", pickle.dumps(trap))
    if kind == "npz" and wrapping in ("pickle in zip", "torch"):
        assert all(type(value) is bytes for value in read_arrays(path).values())
    else:
        assert_damaged(READERS[kind], path)
    assert not trap.path.exists()
    pickle.loads(pickle.dumps(trap))
    assert trap.path.exists(), "the trap works"


@pytest.mark.parametrize(
    "metadata", [None, {}, {"format": "pt"}, {"json": "{"}, {"json": "[1]"}, {"json": "3"}, {"json": "[" * 100_000}]
)
def test_tensors_without_this_projects_metadata_are_damaged(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "file", metadata)
    assert_damaged(read_tensors, tmp_path / "file")


@pytest.mark.parametrize("error", [ValueError("a"), KeyError("a"), RuntimeError("a"), EOFError(), zipfile.BadZipFile()])
def test_whatever_a_reader_raises_names_the_file(tmp_path, error):
    def read(path):
        with readable(path):
            raise error

    (tmp_path / "file").touch()
    assert refusal(read, tmp_path / "file") == (f"{tmp_path}/file: damaged ({type(error).__name__}: {error})")


# Files that cannot be read for want of something else

READ = """
import resource, sys
try:
    {reader}(sys.argv[1])
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""


@linux_only
@pytest.mark.fault
@pytest.mark.parametrize("kind", READERS)
def test_too_many_open_files_are_not_damage(tmp_path, whole, kind):
    (tmp_path / "file").write_bytes(whole[kind])
    limit = "import os; resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir('/proc/self/fd'))),) * 2)"
    code = READ.format(reader=READERS[kind].__name__).replace("import resource, sys", f"import resource, sys; {limit}")
    output, error = python(code, tmp_path / "file").communicate(timeout=120)
    assert (output, error) == (f"OSError: [Errno 24] Too many open files: '{tmp_path / 'file'}'\n", "")


@linux_only
@pytest.mark.fault
@pytest.mark.parametrize("kind", READERS)
def test_too_little_memory_is_not_damage(tmp_path, kind):
    size = 200_000_000
    if kind == "npz":
        write_arrays(tmp_path / "file", {"x": np.zeros(size, np.uint8)})
    else:
        write_tensors(tmp_path / "file", {"x": torch.zeros(size, dtype=torch.uint8)}, {})
    limit = """
import re
now = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_AS, (now + 100_000_000,) * 2)
"""
    code = READ.format(reader=READERS[kind].__name__).replace("import resource, sys", f"import resource, sys{limit}")
    output, error = python(code, tmp_path / "file").communicate(timeout=120)
    assert (output, error) == (f"MemoryError: not enough to read {tmp_path / 'file'}\n", "")
