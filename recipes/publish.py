"""Put a detector on the Hub: python recipes/publish.py RUN|NAME.TAG|FILE --repo org/name --license Apache-2.0."""

import argparse
import sys
import tempfile
from pathlib import Path

from pkdzoo.download import DownloadError
from pkdzoo.repository import UploadError, listing, push_folder
from pkdzoo.training.publish import prepare

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a run's folder, a registered name, or a checkpoint file (with --arch)")
    parser.add_argument("--repo", required=True, help="organisation/name; made when missing")
    parser.add_argument("--dry-run", metavar="FOLDER", type=Path, help="write the folder to look at, send nothing")
    for word in ("arch", "license", "teacher-license", "data", "data-license"):
        parser.add_argument(f"--{word}")
    parser.add_argument("--private", action="store_true", default=None)
    args = parser.parse_args()
    words = ("arch", "license", "teacher_license", "data", "data_license")
    given = {word: getattr(args, word) for word in words if getattr(args, word) is not None}
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = prepare(args.source, args.dry_run or place, args.repo, **given)
            print(listing(folder))
            print(folder if args.dry_run else push_folder(folder, args.repo, private=args.private))
    except (ValueError, OSError, DownloadError, UploadError) as error:
        sys.exit(f"error: {error}")
