"""Prepares a release and writes its notes.

    python -m pkdzoo.maintain.release prepare 0.2.0     # the version in all files; prints what to do next
    python -m pkdzoo.maintain.release notes v0.2.0      # compares these files with a tag, and prints the release notes

The workflow ``release.yml`` runs the second for every tag before it builds and publishes.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

from pkdzoo.utils.files import write_text

UNRELEASED = "## [Unreleased]"
VERSION = re.compile(r"\d+\.\d+\.\d+(?:rc\d+)?")


def notes(changelog: str, version: str) -> str:
    """The section of one version of the changelog, without its heading.

    Raises:
        ValueError: if there is no such section, or nothing in it.

    Example:
        >>> from pkdzoo.maintain.release import notes
        >>> text = ["# Changelog", "## [0.2.0] - 2026-01-31", "- Tiles.", "## [0.1.0] - 2026-01-01", "- All."]
        >>> print(notes(chr(10).join(text), "0.2.0"), end="")
        - Tiles.
    """
    head = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n", changelog, flags=re.MULTILINE)
    if head is None:
        raise ValueError(f'CHANGELOG.md has no section "## [{version}] - YEAR-MONTH-DAY"')
    section = re.split(r"^## \[", changelog[head.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not section:
        raise ValueError(f"the section of {version} in CHANGELOG.md is empty")
    return f"{section}\n"


def check_tag(root: Path, tag: str) -> str:
    """The release notes of a tag, after comparing the versions of all files with it.

    Raises:
        ValueError: for a file that names another version.
    """
    version = tag.removeprefix("v")
    found = {
        "pkdzoo/version.py": re.search(r'^__version__ = "(.+)"$', read(root / "pkdzoo" / "version.py"), re.MULTILINE),
        "CITATION.cff": re.search(r"^version: (.+)$", read(root / "CITATION.cff"), re.MULTILINE),
    }
    for file, match in found.items():
        if match is None or match[1] != version:
            raise ValueError(f"{file} names version {match[1] if match else 'none'}, and the tag is {tag}")
    return notes(read(root / "CHANGELOG.md"), version)


def prepare(root: Path, version: str, day: datetime.date) -> None:
    """Write the version into ``pkdzoo/version.py``, ``CITATION.cff`` and ``CHANGELOG.md``, whose open section gets it.

    Raises:
        ValueError: for a malformed version, one that exists already, and a changelog without anything unreleased.
    """
    if not VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is no version: write e.g. 0.2.0 or 0.2.0rc1")
    changelog = read(root / "CHANGELOG.md")
    if f"## [{version}]" in changelog:
        raise ValueError(f"CHANGELOG.md has a section for {version} already")
    if UNRELEASED not in changelog:
        raise ValueError(f'CHANGELOG.md has no section "{UNRELEASED}"')
    released = changelog.replace(UNRELEASED, f"{UNRELEASED}\n\n## [{version}] - {day.isoformat()}", 1)
    notes(released, version)  # refuses an empty section before anything is written
    code = re.sub(r'^__version__ = ".+"$', f'__version__ = "{version}"', read(root / "pkdzoo/version.py"), flags=re.M)
    citation = re.sub(r"^date-released: .+\n", "", read(root / "CITATION.cff"), flags=re.M)
    dated = f'version: {version}\ndate-released: "{day.isoformat()}"'
    citation = re.sub(r"^version: .+$", dated, citation, flags=re.M)
    for file, text in (("pkdzoo/version.py", code), ("CITATION.cff", citation), ("CHANGELOG.md", released)):
        write_text(root / file, text)


def read(path: Path) -> str:
    """A text file in UTF-8."""
    return path.read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Run one command line; mistakes are one line, and exit with code 1."""
    parser = argparse.ArgumentParser(prog="python -m pkdzoo.maintain.release", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="write the version into all files").add_argument("version")
    verbs.add_parser("notes", help="check a tag and print its release notes").add_argument("tag")
    args = parser.parse_args(argv)
    try:
        if args.verb == "notes":
            print(check_tag(Path(), args.tag), end="")
            return
        prepare(Path(), args.version, datetime.datetime.now(datetime.timezone.utc).date())
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(
        f"Next: review, then\n  git commit -am 'Release {args.version}' && git tag v{args.version} && "
        f"git push origin main v{args.version}\n"
        "The workflow release.yml builds, checks and publishes what the tag holds."
    )


if __name__ == "__main__":
    main()
