"""Training on two machines as the README shows it: two network namespaces, a virtual cable between them."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.checkouts import ROOT, call, change
from tests.ranked import (
    ENDLESS,
    SECONDS,
    errors,
    members,
    prepared_in,
    running,
    wait_for_steps,
    wait_until,
    write_hasty,
)
from tests.test_readme import README, blocks

pytestmark = pytest.mark.slow

ADDRESSES = ("10.77.0.1", "10.77.0.2")  # in the namespaces only


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, ...]]]:
    """The beginnings of commands that run on one of two hosts, which a cable connects from `eth0` to `eth0`."""
    names = [f"vae-{psutil.Process().pid}-{number}" for number in range(2)]
    with ExitStack() as undo:
        try:
            for name in names:
                ip("netns", "add", name)
                undo.callback(ip, "netns", "delete", name)
            ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        except FileNotFoundError:
            pytest.skip("there is no command `ip` (package iproute2) to make two hosts with")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield [("ip", "netns", "exec", name) for name in names]


def cut(host: tuple[str, ...]) -> None:
    ip("-n", host[-1], "link", "set", "eth0", "down")


def commands() -> tuple[list[str], list[str], list[str]]:
    """What the README has people type on each node before, on the first and the second node, and on the first after."""
    (block,) = [block for _, block in blocks(README) if "--node-rank" in block]
    before, during, after = [part.splitlines()[1:] for part in re.split(r"^(?=# )", block, flags=re.MULTILINE)[1:]]
    return before, during, after


def torchrun(line: str, module: str = "stages.train") -> tuple[list[str], dict[str, str]]:
    """The command of a line, on another module, and the variables that the line sets."""
    words = shlex.split(line.replace("stages.train", module))
    variables = dict(word.split("=") for word in words if re.match(r"[A-Z_]+=", word))
    return words[len(variables) :], variables


def start_both(stack: ExitStack, hosts, nodes: list[Path], module: str) -> list[subprocess.Popen[str]]:
    started = []
    for host, node, line in zip(hosts, nodes, commands()[1], strict=True):
        command, variables = torchrun(line, module)
        started.append(stack.enter_context(running(node, *host, *command, **variables)))
    return started


def history(folder: Path) -> list[list[float]]:
    with (folder / "plots/history.csv").open() as file:
        _, *rows = csv.reader(file)
    return [[float(value or "nan") for value in row] for row in rows]


def test_two_nodes_train_what_one_process_does_and_dvc_takes_it_over(checkout: Path, tmp_path: Path, hosts) -> None:
    before, _, after = commands()
    change(checkout, train={"seed": 5})
    nodes = [checkout, Path(shutil.copytree(checkout, tmp_path / "second"))]
    for node in nodes:
        for line in before:
            call(node, *shlex.split(line))
    with ExitStack() as stack:
        for process in start_both(stack, hosts, nodes, "stages.train"):
            _, error = process.communicate(timeout=SECONDS)
            assert (process.returncode, errors(error)) == (0, []), error
    said = [call(checkout, *shlex.split(line)) for line in after]
    assert "Stage 'train' didn't change, skipping" in said[-1]
    assert "Running stage 'evaluate'" in said[-1]
    assert "up to date" in call(checkout, "dvc", "status")

    alone = Path(shutil.copytree(checkout, tmp_path / "alone"))
    call(alone, "python", "-m", "stages.train")
    # Both round a float32 sum of some hundred terms differently, in each of some dozen steps.
    assert history(checkout) == [pytest.approx(row, rel=1e-4, nan_ok=True) for row in history(alone)]


def test_the_script_for_slurm_starts_what_is_tested_here() -> None:
    script = (ROOT / "docs/train.slurm").read_text()
    subprocess.run(("bash", "-n"), input=script, text=True, check=True)
    (line,) = re.findall("torchrun .*stages.train", script)
    tested, _ = torchrun(commands()[1][0])
    assert [word for word in shlex.split(line) if word.startswith("-")] == [
        word for word in tested if word.startswith("-")
    ]


@pytest.mark.fault
def test_a_cut_cable_ends_both_nodes_and_the_first_resumes(tmp_path: Path, hosts) -> None:
    first = tmp_path / "first"
    prepared_in(first)
    change(first, train=ENDLESS | {"processes": 1})
    write_hasty(first)
    nodes = [first, Path(shutil.copytree(first, tmp_path / "second"))]
    with ExitStack() as stack:
        processes = start_both(stack, hosts, nodes, "hasty")
        wait_for_steps(first, processes[0])
        cut(hosts[0])
        said = [errors(process.communicate(timeout=SECONDS)[1]) for process in processes]
        assert [process.returncode for process in processes] == [1, 1]
        wait_until(lambda: not members(nodes[0]) and not members(nodes[1]))
    for (message,), who in zip(said, ("rank 1 of 2", "the other ranks"), strict=True):
        assert f"lost contact with {who}: ended, hanging or cut off (" in message
        assert message.endswith("; the last checkpoint is kept, and the next run resumes from it")
    with running(first, sys.executable, "-m", "stages.train") as process:
        wait_for_steps(first, process)
        process.terminate()
        output, _ = process.communicate(timeout=SECONDS)
    assert "resuming from checkpoint: after epoch" in output
    assert "resuming with different processes (2, here 1)" in output


@pytest.mark.fault
def test_ranks_end_soon_after_the_dvc_that_started_their_launcher(checkout: Path) -> None:
    change(checkout, train=ENDLESS | {"checkpoint_every": 1, "step": "eager"})
    with running(checkout, "dvc", "repro", "train") as process:
        wait_for_steps(checkout, process)
        process.kill()
        _, error = process.communicate(timeout=SECONDS)
        wait_until(lambda: not members(checkout))
    gone, stopped = errors(error)
    assert gone == "error: the DVC process that started it is gone; stopping"
    assert re.match(
        r"error: stopped by SIGTERM in epoch \d+, after step \d+; the state is saved, and the next", stopped
    )
