"""Keep a local copy of the scripts that draw the charts of `dvc plots show`, for use offline: `python -m tools.vega`.

.dvc/plots/page.html loads them from .dvc/plots/vega.js, and from the addresses that DVC names where that is missing.
"""

from pathlib import Path

import vl_convert

from vae.files import replacing

SCRIPT = Path(".dvc/plots/vega.js")
# The last of the version 5 that DVC's templates are written for.
VEGA_LITE = "v5.21"


def main() -> None:
    """Write Vega, Vega-Lite and Vega-Embed as one script."""
    with replacing(SCRIPT) as file:
        file.write(vl_convert.javascript_bundle(vl_version=VEGA_LITE).encode())


if __name__ == "__main__":
    main()
