"""Draw what a detector sees: annotated pictures, and everything as JSON.

    python recipes/infer.py retina_r50_pkd_swin street.jpg --output out/
    python recipes/infer.py runs/mine holiday/ --output out/ --score 0.5

A picture that cannot be read is named and left out; the others are done.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import count
from pathlib import Path

import torch
from tqdm import tqdm

from pkdzoo.models.prediction import pictures_in
from pkdzoo.training import options
from pkdzoo.training.evaluate import open_detector


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="a registered name, hf-hub:..., or the folder of a run or a saved detector")
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files and folders")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder for pictures and JSON")
    parser.add_argument("--score", type=float, default=0.3, help="lowest score that is drawn and written")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def free_name(folder: Path, path: Path, taken: set[str]) -> Path:
    """A file for a picture's drawing; pictures of one name from two folders do not overwrite each other."""
    names = (f"{path.stem}{'' if k == 0 else f'_{k}'}.png" for k in count())
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return folder / name


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    try:
        paths = [p for given in args.pictures for p in (pictures_in(given) if given.is_dir() else [given])]
        model = open_detector(args.detector).to(args.device)
        args.output.mkdir(parents=True, exist_ok=True)
        rows, failed, taken = [], 0, set[str]()
        for start in tqdm(range(0, len(paths), args.batch_size), disable=None):
            results = model.predict(paths[start : start + args.batch_size], args.score, batch_size=args.batch_size)
            for path, result in zip(paths[start:], results):
                row = result.to_json()
                if result.error:
                    failed += 1
                    tqdm.write(f"{path}: {result.error}", file=sys.stderr)
                else:
                    row["drawing"] = str(free_name(args.output, path, taken))
                    result.save(row["drawing"], args.score)
                rows.append(row)
        (args.output / "predictions.json").write_text(json.dumps(rows, indent=2) + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {options.plainly(error)}")
    found = sum(len(row.get("detections", [])) for row in rows)
    print(f"{found} detections in {len(rows) - failed} pictures: {args.output.resolve()}")
    if failed == len(rows):
        sys.exit(f"error: none of the {failed} pictures could be read")


if __name__ == "__main__":
    main()
