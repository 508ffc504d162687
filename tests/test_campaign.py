"""A short form of the campaign of faults: a few seconds of each part, with another seed each time."""

import json
import random
import subprocess
import sys
import time

import pytest

from tests.campaign import faults, namespaces
from tests.checkouts import ENVIRONMENT, ROOT
from tools.run import environment

pytestmark = [pytest.mark.slow, pytest.mark.fault]


def campaign(tmp_path, *arguments):
    """Run the campaign for a few seconds, and return its counts; it must find nothing."""
    seed = random.randrange(2**32)
    out = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.campaign", "--seed", str(seed), "--out", str(out), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr}"
    return json.loads(out.read_text())["counts"]


def test_nothing_is_lost_or_left_over_and_nothing_is_connected_to(tmp_path):
    parts = ["kills", "settings", "servers", "flips"]
    if namespaces.permitted():
        parts += ["disks"]
    if faults.compiler() is not None:
        parts += ["faults"]
    if namespaces.permitted() and faults.compiler() is not None:
        parts += ["offline"]
    counts = campaign(tmp_path, "--minutes", "0.1", "--only", *parts)
    assert set(parts) == {name.removeprefix("cases of ") for name in counts if name.startswith("cases of ")}
    if "offline" not in parts:
        pytest.skip(f"only {parts}: others need a C compiler (cc) and user namespaces, which are not permitted here")


@pytest.mark.skipif(faults.compiler() is None, reason="there is no C compiler (cc)")
@pytest.mark.skipif(not namespaces.permitted(), reason="user namespaces are not permitted here")
def test_a_run_in_a_folder_reports_nothing_to_dvc(tmp_path):
    library = faults.build(tmp_path)

    def attempts(variables):
        """What `dvc init`, as `tools.run` calls it, tries to reach; in a namespace without network."""
        folder = tmp_path / f"{len(variables)}"
        folder.mkdir()
        log = folder / "connections"
        command = ["unshare", "--map-root-user", "--net", sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"]
        variables = {**variables, "LD_PRELOAD": str(library), "CONNECTIONS": str(log)}
        with subprocess.Popen(command, cwd=folder, env=variables):
            pass
        deadline = 20 if "DVC_NO_ANALYTICS" not in variables else 3
        for _ in range(10 * deadline):
            if log.exists():
                break
            time.sleep(0.1)
        return log.read_text() if log.exists() else ""

    quiet = {key: value for key, value in environment().items() if key != "DVC_TEST"}
    assert attempts(quiet) == ""
    del quiet["DVC_NO_ANALYTICS"]
    assert "getaddrinfo" in attempts(quiet), "and without it, it would have"
