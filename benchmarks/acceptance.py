"""Does all of this work on this machine's GPU, and how fast: `python -m benchmarks.acceptance`, ten minutes at most.

It runs the `cuda` tests, trains with params.yaml twice and once interrupted, judges the model, trains in other ways,
and runs the benchmark. Every figure goes into one JSON file and one page of Markdown as soon as it is known. The stages
run in a copy of the project. Exit status 1 means that a part failed or that there was no time for it, 2 that there is
no GPU. With `--readme` it writes README's section about GPUs from the newest results instead.
"""

import argparse
import datetime
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import readme, report
from benchmarks.trial import ROOT, Failed, Figures, Project, command, last
from tools.tables import table
from vae.files import replacing, write_json
from vae.training.gradients import compiler

RESULTS = ROOT / "benchmarks/results"
ALLOWED_SECONDS = 600
TESTS = ("tests/training", "tests/model", "tests/evaluation", "tests/stages", "tests/benchmarks")


@dataclass(frozen=True)
class Part:
    """One thing to prove: `work` takes the seconds that it may use and returns what it measured, or raises Failed."""

    name: str
    seconds: float
    work: Callable[[float], Figures]


def run_tests(seconds: float) -> Figures:
    """Run the tests that need a GPU, all of which must pass, and some there must be."""
    output = command(["-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", *TESTS], seconds)
    summary = last(output, lines=1)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|skipped|xfailed)", summary)}
    if not counts.get("passed") or len(counts) > 1:
        raise Failed(f"not every test passed, or none ran: {summary}", **counts)
    return counts


def run_benchmark(seconds: float, folder: Path) -> Figures:
    """Time the trainer against plain Pyro and bare PyTorch; what was measured before a failure is kept."""
    output = folder / "benchmark.json"

    def figures(printed: str) -> Figures:
        return {"tables": printed, "benchmark": json.loads(output.read_text()) if output.exists() else {}}

    try:
        call = ["-m", "benchmarks.run", "--device", "cuda", "--rounds", "3", "--output", str(output)]
        return figures(command(call, seconds))
    except Failed as failure:
        raise Failed(str(failure), **figures(failure.figures["output"])) from failure


def parts(project: Project) -> list[Part]:
    """What is run, the most important first; the longest are last, where time may run out."""
    proofs = [
        Part("preparation", 30, project.prepare),
        Part("training", 60, project.train),
        Part("training again", 60, project.train),
        Part("training interrupted", 80, project.interrupt),
        Part("classify", 30, partial(project.judge, stage="classify")),
        Part("evaluate", 60, partial(project.judge, stage="evaluate")),
        Part("sample", 30, partial(project.judge, stage="sample")),
    ]
    if project.small:
        return [*proofs, Part("recorded steps", 40, partial(project.compare_steps, step="recorded"))]
    proofs.append(Part("captured steps", 40, partial(project.compare_steps, step="graph")))
    compiling = Part("compiled steps", 120, partial(project.compare_steps, step="compiled"))
    return [
        Part("tests", 200, run_tests),
        *proofs,
        *(
            Part(f"training, {precision}", 60, partial(project.train, compared=False, precision=precision))
            for precision in ("tf32", "bfloat16")
        ),
        *([compiling] if compiler() else []),
        Part("benchmark", 240, partial(run_benchmark, folder=project.folder)),
    ]


def run_parts(todo: Sequence[Part], about: Figures, output: Path, allowed: float = ALLOWED_SECONDS) -> bool:
    """Run the parts in turn within `allowed` seconds, write what is known after each one, and tell if all passed."""
    end, results = time.monotonic() + allowed, []
    for number, part in enumerate(todo, start=1):
        start = time.monotonic()
        row: Figures = {"part": part.name}
        if start >= end:
            row |= {"status": "not run", "reason": f"the {allowed:.0f} seconds were over"}
        else:
            try:
                row |= {"status": "passed", **part.work(min(part.seconds, end - start))}
            except Failed as failure:
                row |= {"status": "failed", "reason": str(failure)} | failure.figures
            except Exception as error:  # the remaining parts must run as well
                row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        results.append(row | {"wall_seconds": time.monotonic() - start})
        print(f"{number}/{len(todo)} {part.name}: {row['status']} ({results[-1]['wall_seconds']:.1f} s)", flush=True)
        write_json(output, about | {"parts": results})
        with replacing(output.with_suffix(".md")) as file:
            file.write(page(about, results).encode())
    return all(row["status"] == "passed" for row in results)


def page(about: Figures, results: Sequence[Figures]) -> str:
    """The results as a page of Markdown: a table of the parts, then what each one measured."""
    machine = ", ".join(f"{key} {value}" for key, value in (about["machine"] | about["versions"]).items() if value)
    columns = {"part": "{part}", "result": "{status}", "seconds": "{wall_seconds:.1f}"}
    lines = [f"# Acceptance on {about['date']}", "", machine, "", table(columns, results)]
    for row in results:
        lines += ["", f"## {row['part']}: {row['status']}", ""]
        for key, value in row.items():
            if key in ("reason", "tables"):
                lines += ["```", str(value).rstrip(), "```"]
            elif key not in ("part", "status", "wall_seconds", "output", "benchmark"):
                lines.append(f"- {key}: {value:.6g}" if isinstance(value, float) else f"- {key}: {value}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Read the command line, run the parts, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acceptance", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder of the results (benchmarks/results)")
    parser.add_argument("--rehearse", action="store_true", help="the stages alone, on the CPU, with small images")
    parser.add_argument("--readme", action="store_true", help="only write README's section from the newest results")
    options = parser.parse_args(arguments)
    if options.readme:
        readme.write(ROOT / "README.md", readme.newest(options.output))
        return 0
    if not options.rehearse and not torch.cuda.is_available():
        print("There is no GPU that torch can use here, so there is nothing to accept.", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.rehearse else "cuda")
    about = {"date": _today(), "machine": report.machine(device), "versions": report.versions(device)}
    folder = options.output.resolve()
    output = folder / f"acceptance-{report.file_name(device, _today())}"
    with tempfile.TemporaryDirectory(prefix="acceptance-") as scratch:
        passed = run_parts(parts(Project(Path(scratch), small=options.rehearse)), about, output)
    print(f"written: {output} and {output.with_suffix('.md').name}")
    return 0 if passed else 1


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
