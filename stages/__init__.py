"""The pipeline's stages: each a thin script that DVC runs as `python -m stages.NAME` from the root."""

import sys
from collections.abc import Callable

from vae.errors import InputError, Interrupted, WorkError
from vae.settings import Settings, load_settings


def run(stage: Callable[[Settings], None]) -> None:
    """Run a stage on the settings in params.yaml; what goes wrong becomes a message and an exit status."""
    try:
        if len(sys.argv) > 1:
            raise InputError(f"{sys.argv[1]}: a stage takes no arguments; its settings are in params.yaml")
        stage(load_settings())
    except InputError as error:
        _fail(2, str(error))
    except WorkError as error:
        _fail(1, str(error))
    except Interrupted as error:
        _fail(error.status, str(error))
    except OSError as error:
        _fail(1, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        # torch's error has RuntimeError above it; stages that do without torch must not import it for this.
        if "OutOfMemory" not in type(error).__name__ and not isinstance(error, MemoryError):
            raise
        reason = (str(error).splitlines() or ["no more to be had"])[0]
        _fail(1, f"memory: {reason}; lower train.batch_size, or set train.device to cpu")
    except KeyboardInterrupt:
        _fail(130, "interrupted")


def _fail(status: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
