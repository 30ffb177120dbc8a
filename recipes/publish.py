"""Upload a detector to the Hub, with its model card.

    python recipes/publish.py runs/mine --repo you/name --license Apache-2.0 --dry-run   # shows the card
    python recipes/publish.py runs/mine --repo you/name --license Apache-2.0    # uploads, or continues an upload
    python recipes/publish.py retina_r50_pkd_swin --repo you/name    # converted published weights
    python recipes/publish.py epoch_12.pth --arch retina_r50.coco_1x --repo you/name    # a checkpoint file

A license is never guessed; local paths and tokens are never uploaded. This is ``pkdzoo push`` as a script.
"""

import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
