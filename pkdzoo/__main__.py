"""``python -m pkdzoo`` is ``pkdzoo``."""

import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
