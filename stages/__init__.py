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
    except KeyboardInterrupt:
        _fail(130, "interrupted")


def _fail(status: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
