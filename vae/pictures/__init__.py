"""Pictures of a trained VAE: one entry each, above a function from arrays to a matplotlib figure.

To add one, write an entry and a function in a file of this folder, and a test.
"""

from importlib import import_module
from pkgutil import iter_modules

from vae.pictures.picture import Picture

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]

# In the order of the report within a section: by the name of the file, and as they follow each other there.
PICTURES: tuple[Picture, ...] = tuple(
    entry for module in _MODULES for entry in vars(module).values() if isinstance(entry, Picture)
)
