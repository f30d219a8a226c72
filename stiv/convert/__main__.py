"""`python -m stiv.convert`, or `python <pack>/stiv/convert` from any folder: ComfyUI's portable
Python looks for modules in its own folders alone."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from stiv.convert.cli import main

if __name__ == "__main__":
    main()
