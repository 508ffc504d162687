"""The history of a run as curves in TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from vae.errors import SettingError


class Curves:
    """Writes a growing history to TensorBoard's event files in `folder`, one curve per column.

    Raises:
        SettingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes a second, and few runs need it
        except ImportError as error:
            raise SettingError("train.tensorboard", "the package tensorboard is not installed") from error
        # A resumed run writes its history anew, so TensorBoard is to forget what is in the folder.
        self._writer = SummaryWriter(str(folder), purge_step=1)
        self._rows = 0

    def write(self, history: Sequence[dict[str, float]]) -> None:
        """Add the rows that were not there at the last call."""
        for row in history[self._rows :]:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, row["epoch"])
        self._rows = len(history)
        self._writer.flush()
