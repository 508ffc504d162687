"""The ways in which a stage may end early: the exit status is the difference."""


class InputError(Exception):
    """What was given is wrong: a setting or a file; exit status 2."""


class WorkError(Exception):
    """What was asked for could not be done: a download or a training run; exit status 1."""


class Interrupted(Exception):
    """A signal asked to stop and everything was saved; exit status 128 plus the signal's number."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + signal
