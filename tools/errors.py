"""How the commands end when something is wrong: one message, and the exit statuses of the stages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vae.errors import InputError, WorkError


@contextmanager
def reported(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn errors in the block into a message on stderr and an exit status.

    Wrong input is 2, failed work 1, and Ctrl-C, reported as `interrupted`, 130.
    """
    try:
        yield
    except InputError as error:
        status, message = 2, str(error)
    except WorkError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, f"{error.filename or 'input or output'}: {error.strerror or error}"
    except KeyboardInterrupt:
        status, message = 130, interrupted
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
