"""System calls that fail below readers, writers and stages: by a library between them and the system."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.campaign import faults
from tests.campaign.faults import SYNC, UNLINK, WRITE, variable
from tests.checkouts import ENVIRONMENT, ROOT
from tests.test_files import READERS, WRITERS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.skipif(faults.compiler() is None, reason="there is no C compiler (cc)"),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Give a function: run Python with that library in a folder, and return the finished process."""
    library = faults.build(tmp_path_factory.mktemp("library"))

    def run(folder, *arguments, armed=""):
        environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(library)}
        environment |= {"FAULTS": armed} if armed else {}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return run


# Each attempt prints what came of it: the exception, its number and its file, and what is in the folder.
ATTEMPTS = """
import json, sys
from pathlib import Path
from tests.campaign.faults import CALLS, arm
from tests.test_files import READERS, WRITERS
folder, attempts = Path.cwd(), json.loads(sys.argv[1])
for call, nth, number, action, kind in attempts:
    path = folder / "file"
    path.write_bytes(b"old")
    if action == "read":
        WRITERS[kind](path)
    before = path.read_bytes()
    arm(folder, CALLS[call], nth, number)
    try:
        {"read": READERS, "write": WRITERS}[action][kind](path)
        came = ["nothing", None, None, ""]
    except Exception as error:
        came = [type(error).__name__, getattr(error, "errno", None), str(getattr(error, "filename", "")), str(error)]
    arm(folder, 0, 0, 0)
    print(json.dumps([*came, sorted(path.name for path in folder.iterdir()), path.read_bytes() == before]))
"""


def outcomes(python, folder, attempts):
    done = python(folder, "-c", ATTEMPTS, json.dumps(attempts))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_write_that_fails_anywhere_keeps_the_old_file_and_names_it(python, tmp_path):
    failures = [
        *(("write", number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)),
        *(("sync", number) for number in (errno.ENOSPC, errno.EIO)),
        *(("rename", number) for number in (errno.EIO, errno.EACCES, errno.ENOSPC)),
        *(("open", number) for number in (errno.EMFILE, errno.EIO)),
    ]
    attempts = [[call, 1, number, "write", kind] for call, number in failures for kind in WRITERS]
    found = outcomes(python, tmp_path, attempts)
    assert len(found) == len(attempts)
    for (call, _, number, *_), (_, seen, path, _, names, same) in zip(attempts, found, strict=True):
        assert (seen, names, same) == (number, ["file"], True), call
        # Where the temporary file cannot be opened or moved, the message has its name, which holds that of the file.
        assert path == str(tmp_path / "file") or Path(path).name.startswith(".file."), call


def test_a_read_that_fails_is_not_damage(python, tmp_path):
    numbers = (errno.EIO, errno.ENFILE, errno.ESTALE, errno.ENOMEM, errno.EACCES)
    attempts = [["open", 1, number, "read", kind] for number in numbers for kind in READERS]
    # The library of safetensors opens the file itself, and only maps it into memory.
    attempts += [["open", 2, number, "read", "safetensors"] for number in (errno.EIO, errno.ENFILE, errno.ESTALE)]
    attempts += [["read", 1, number, "read", "npz"] for number in (errno.EIO, errno.ESTALE)]
    found = outcomes(python, tmp_path, attempts)
    for (call, nth, number, _, kind), (name, seen, path, message, names, same) in zip(attempts, found, strict=True):
        case = (call, nth, errno.errorcode[number], kind, message)
        assert "damaged" not in message, case
        assert (names, same) == (["file"], True), case
        if number == errno.EACCES:
            assert (name, message) == ("FileError", f"{tmp_path / 'file'}: permission denied"), case
        elif number == errno.ENOMEM:
            assert (name, message) == ("MemoryError", f"not enough to read {tmp_path / 'file'}"), case
        elif nth == 2:  # that library does not say why
            assert (name, path) == ("OSError", str(tmp_path / "file")), case
            assert "cannot be opened" in message, case
        else:
            assert (seen, path) == (number, str(tmp_path / "file")), case


def test_a_full_disk_is_one_line_that_names_the_file(python, tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["download"]["dataset"] = "digits"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/digits.npz").write_bytes(b"old")
    armed = variable(tmp_path / "data/raw", WRITE | SYNC, 1, errno.ENOSPC, lasting=True)
    done = python(tmp_path, "-m", "stages.download", armed=armed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: data/raw/digits.npz: No space left on device\n"
    assert [path.read_bytes() for path in (tmp_path / "data/raw").iterdir()] == [b"old"]


# Kills a process at each rename in turn, then writes once more. Prints the number of the state that is left, and of the
# last one.
KILLED_CHECKPOINTS = """
import os
from pathlib import Path
from tests.campaign.faults import RENAME, arm
from vae.training import checkpoints
folder = Path.cwd() / "run"
for rename in (1, 2, 3):
    for number in (1, 2):
        checkpoints.write(folder, {"number": number})
    if (child := os.fork()) == 0:
        arm(folder, RENAME, rename, 0)
        checkpoints.write(folder, {"number": 3})
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = checkpoints.read(folder)
    checkpoints.write(folder, {"number": 4})
    print(status, left["number"], checkpoints.read(folder)["number"], *sorted(path.name for path in folder.iterdir()))
"""


def test_a_kill_at_any_rename_of_a_checkpoint_leaves_the_state_before(python, tmp_path):
    done = python(tmp_path, "-c", KILLED_CHECKPOINTS)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["-9 2 4 before.pt last.pt"] * 3


def test_the_mark_of_a_run_survives_an_emptying_that_fails(python, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "project"
    elsewhere.mkdir()
    for name in ("data/deep/file", "stages/train.py", "zzz", ".pyro-vae-run"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    empty = "import sys; from pathlib import Path; from tools.run import empty_folder; empty_folder(Path(sys.argv[1]))"
    done = python(elsewhere, "-c", empty, folder, armed=variable(folder, UNLINK, 2, errno.EIO, lasting=True))
    assert "OSError: [Errno 5] Input/output error" in done.stderr
    assert (folder / ".pyro-vae-run").exists()
    assert len(list(folder.rglob("*"))) > 1
    assert python(elsewhere, "-c", empty, folder).stderr == ""
    assert os.listdir(folder) == [".pyro-vae-run"]  # noqa: PTH208
