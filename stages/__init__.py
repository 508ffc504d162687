"""The pipeline's stages: each a thin script that DVC runs as `python -m stages.NAME` from the root."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from vae import launcher
from vae.errors import (
    DamagedFile,
    InputError,
    Interrupted,
    LostRank,
    MissingFile,
    SettingError,
    UnfitFile,
    WorkError,
    memory_reason,
)

if TYPE_CHECKING:
    from vae.settings import Settings

SETTINGS = "params.yaml"
LOCK = Path("data/.checkpoints/stage.lock")
POLL = 0.1  # seconds between looks at whether the stage's DVC and folder are there
GRACE = 10  # seconds for a stage that was asked to stop to save its state
PATIENCE = 2 * (POLL + GRACE)  # seconds that a stage waits for another one, which an orphan needs half of to end
# The stage that writes each file, to name in the message about one that does not fit.
WRITERS = {
    "data/raw": "download",
    "data/prepared": "prepare",
    "data/classifier.safetensors": "classify",
    "metrics/classify.json": "classify",
    "data/model.safetensors": "train",
    "data/snapshots.npz": "train",
    "plots/history.csv": "train",
    "metrics/train.json": "train",
    "data/latents.npz": "evaluate",
    "plots/confusion.csv": "evaluate",
    "plots/error_by_class.csv": "evaluate",
    "plots/kl_per_dimension.csv": "evaluate",
    "metrics/evaluate.json": "evaluate",
    "data/samples.npz": "sample",
    "metrics/sample.json": "sample",
    "plots/embedding.csv": "embed",
    "plots/images": "plot",
    "plots/report.html": "report",
}
# What lowers the memory that a stage needs.
_MODEL = "make the model smaller (model.latent_dim and the widths)"
MEMORY = {
    "classify": "lower classify.batch_size or choose another train.device",
    "train": f"lower train.batch_size or train.particles, {_MODEL}, set train.images to streamed "
    "or choose another train.device",
    "evaluate": f"lower evaluate.training_images, {_MODEL} or choose another train.device",
    "sample": f"lower sample.images, {_MODEL} or choose another train.device",
    "embed": "lower embed.images",
    "plot": f"lower plot.dpi or plot.samples, or {_MODEL}",
}
# What to do when one of several processes was lost.
AFTER_A_LOSS = {"train": "the last checkpoint is kept, and the next run resumes from it"}
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish")

_STAT = Path("/proc/stat")


def _are_cores_shared() -> bool:
    """Whether other processes keep more than a tenth of the cores busy right now; yes where Linux does not say."""

    def ticks() -> tuple[int, int]:
        _, user, nice, system, idle, waiting, *others = _STAT.read_text().partition("\n")[0].split()
        free = int(idle) + int(waiting)
        return free, free + sum(map(int, (user, nice, system, *others[:3])))

    try:
        before = ticks()
        time.sleep(0.1)
        free, total = (now - then for now, then in zip(ticks(), before, strict=True))
    except (OSError, ValueError):
        return True
    return free <= 0.9 * total  # also if no time is counted, as in some sandboxes


_PARENT = os.getppid()  # read now, as the parent may be gone once everything is imported


def _end_at_once(number: int, _: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        with suppress(OSError):
            os.write(2, b"error: interrupted\n")
    os._exit(128 + number)


# True while `python -m stages.NAME` looks for its module; the imports that follow take seconds, with nothing to save.
if sys.argv[:1] == ["-m"]:
    for _number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(_number, _end_at_once)
    # Asks a training to finish after its epoch; before that, and in other stages, it must not kill.
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Read when libraries are first imported. By OpenMP's default, waiting threads spin for milliseconds. On idle cores
    # a training step is up to a quarter faster than if they had to be woken; on shared ones others lose that time.
    spinning = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if not spinning and launcher.rank() is None and _are_cores_shared():  # ranks inherit what their launcher found
        os.environ["GOMP_SPINCOUNT"] = "1000"


def run(stage: Callable[["Settings"], None], shared: bool = False) -> None:
    """Run a stage on the settings in params.yaml; errors become a message and an exit status.

    A `shared` stage may be divided among several processes, as train.processes or `torchrun` ask.
    """
    try:
        if len(sys.argv) > 1:
            raise InputError(f"{sys.argv[1]}: a stage takes no arguments; its settings are in params.yaml")
        settings = _load_settings()
        with _signals_as_exceptions(), _watched():
            if shared and (count := launcher.wanted(settings.train)) > 1:
                launcher.launch(f"stages.{_name()}", count)
            else:
                with _together():
                    stage(settings)
    except MissingFile as error:
        _fail(2, f"{error}; run `dvc repro` to create it")
    except DamagedFile as error:
        _fail(2, f"{error}; delete it and run `dvc repro`")
    except UnfitFile as error:
        stage_of = next((name for out, name in WRITERS.items() if Path(error.path).is_relative_to(out)), None)
        command = f"dvc repro --force --single-item {stage_of}" if stage_of else "dvc repro"
        _fail(2, f"{error}; run `{command}` to recreate it")
    except SettingError as error:
        _fail(2, f"params.yaml: {error}")
    except InputError as error:
        _fail(2, str(error))
    except LostRank as error:
        _fail(1, f"{launcher.explained(error)}; {AFTER_A_LOSS.get(_name(), 'run it again')}")
    except WorkError as error:
        _fail(1, str(error))
    except Interrupted as error:
        if not str(error):  # another process says it
            sys.exit(error.status)
        gone = launcher.rank() is not None and _what_is_gone(())
        _fail(error.status, f"{gone}; {error}" if gone else str(error))
    except OSError as error:
        _fail(1, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        reason = memory_reason(error)
        if reason is None:
            raise
        advice = MEMORY.get(_name(), "end other programs")
        _fail(1, f"memory: {reason}; {advice}")
    except KeyboardInterrupt:
        _fail(130, "interrupted")


def _name() -> str:
    return Path(sys.argv[0]).stem


def _load_settings() -> "Settings":
    from vae.settings import load_settings

    try:
        return load_settings(SETTINGS)
    except MissingFile as error:
        raise InputError(f"{error}; run from the project's root") from error
    except InputError as error:
        if "pass such a mirror through the environment" not in str(error):
            raise
        raise InputError(f"{error} variable MNIST_MIRROR") from error


def _fail(status: int, message: str) -> NoReturn:
    if launcher.rank() is not None:
        from vae import ranks

        if not ranks.may_report():
            sys.exit(status)
        message = f"rank {ranks.rank()}: {message}" if ranks.rank() else message
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) == _end_at_once:  # which would add a second message
            signal.signal(number, signal.SIG_DFL)
    with suppress(BrokenPipeError):
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


@contextmanager
def _together() -> Iterator[None]:
    """Join the other ranks, if there are any; the first of them holds the folder's lock."""
    if launcher.rank() is None:
        with alone():
            yield
        return
    from vae import ranks

    with ranks.joined(), alone() if ranks.rank() == 0 else nullcontext():
        yield


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    if launcher.rank() is not None:
        raise Interrupted(number, "")  # the launcher received it, too
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(number, f"stopped by {signal.Signals(number).name}")


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into exceptions, so that temporary files are removed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone() -> Iterator[None]:
    """Hold the folder's lock: if DVC is killed its stage keeps running, and no other stage may start meanwhile.

    Raises:
        WorkError: another process has held it for longer than an orphaned stage needs to end.
    """
    from filelock import FileLock, Timeout

    LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(LOCK).acquire(timeout=PATIENCE)
    except Timeout as error:
        raise WorkError(f"{LOCK}: another stage is running in this folder; wait for it or stop it") from error
    with held:
        yield


@contextmanager
def _watched() -> Iterator[None]:
    """End this stage within seconds once the DVC process that started it or its working folder is gone."""
    parents = _parents() if "DVC_STAGE" in os.environ and os.getppid() == _PARENT else (_PARENT,)
    # DVC removes the folder of a queued experiment once that has ended, however it did. A state that is saved there is
    # lost, and if it is saved while DVC removes the folder, both stay.
    grace = 0 if "/.dvc/tmp/exps/" in Path.cwd().as_posix() else GRACE
    ended = threading.Event()
    threading.Thread(target=_watch, args=(parents, grace, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(parents: tuple[int, ...], grace: float, ended: threading.Event) -> None:
    while not ended.wait(POLL):
        if gone := _what_is_gone(parents):
            if launcher.rank() is None:  # one of several says it once all of them have stopped
                with suppress(OSError):
                    print(f"error: {gone}; stopping", file=sys.stderr, flush=True)
            if grace:
                os.kill(os.getpid(), signal.SIGTERM)
            if not ended.wait(grace):
                os._exit(128 + signal.SIGTERM)
            return


def _what_is_gone(parents: tuple[int, ...]) -> str | None:
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the folder it works in is gone"
    except OSError:
        pass  # from an unresponsive file system
    if launcher.rank() is not None:
        return "the launcher that started it is gone" if os.getppid() != _PARENT else None
    # A stage that was started by hand may outlive its shell, as with nohup.
    if "DVC_STAGE" in os.environ and _parents() != parents:
        return "the DVC process that started it is gone"
    return None


def _parents() -> tuple[int, ...]:
    """The process that started this one and, if that is a shell, the one that started the shell."""
    import psutil  # comes with DVC, without which this is not called

    with suppress(psutil.Error):
        parent = psutil.Process(os.getppid())
        if parent.name() in SHELLS:
            return (parent.pid, parent.ppid())
    return (os.getppid(),)
