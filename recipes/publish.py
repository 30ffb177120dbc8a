"""Put a detector on the Hub, with its card.

    python recipes/publish.py runs/mine --repo you/name --license Apache-2.0 --dry-run   # shows the card
    python recipes/publish.py runs/mine --repo you/name --license Apache-2.0    # goes on after a break
    python recipes/publish.py retina_r50_pkd_swin --repo you/name    # converted published weights
    python recipes/publish.py epoch_12.pth --arch retina_r50.coco_1x --repo you/name    # somebody's checkpoint

Nobody guesses a licence, and no place, user name or token leaves this machine. This is ``pkdzoo push`` as a script.
"""

import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
