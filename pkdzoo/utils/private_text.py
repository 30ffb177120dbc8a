"""Local paths and tokens in text that is to be published: how they are found, and how paths are shortened."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

PART = r"[^\s\"',;)<>|`]"  # of a path that ends at a space
NAME = r"[\w.~@+-]+"
NAMES = rf"{NAME}(?: {NAME}){{0,3}}"  # a folder whose name has spaces; a separator must follow it
# Not inside a word, a link or a longer path. "file://", "local-dir:" and "--data=" may stand before a path.
START = r"(?:(?<![\w./:\\])|(?<=\bfile://)|(?<=[\w\]-]:)(?!//))"  # a host may stand there, too: "10.0.0.5:/export"
HOST = r"(?:\[[\da-fA-F:.%]+\]|[\w.~@+-]+)"  # also an IPv6 address
SHARES = r"(?:file|smb|cifs|nfs|afp|afs|ssh|sshfs|sftp|scp|rsync)"  # links to a disk of a private network
LOCAL_PATH = re.compile(
    "|".join(
        (
            rf"{START}~?/(?:{NAMES}/)+{PART}*",  # /a/b, /my disk/b, ~/a/b
            rf"{START}~[\w.-]*/{PART}+",  # ~/a, ~ann/a
            rf"(?<![\w:/\\])//{HOST}/{PART}+",  # //server/share
            rf"(?i:\b{SHARES}):/{{2,}}{HOST}(?::\d+)?/{PART}+",  # file://server/share, smb://10.0.0.5/share
            rf"(?<![\w./@-])(?!git@)[\w.-]+@(?!git\+){HOST}:(?!//){PART}*/{PART}*",  # ann@server:data/coco, no link
            rf"(?<![\w\\])\\{{2,4}}[?.]\\{{1,2}}{PART}+",  # \\?\UNC\server\share
            rf"(?<![\w\\])\\{{2,4}}{NAME}\\{{1,2}}{PART}+",  # \\server\share, also in JSON
            rf"(?<!\w)[A-Za-z]:(?:\\+|/(?!/))(?:{NAMES}[\\/]+)*{PART}+",  # C:\a, C:/a
            rf"\$\{{?[A-Z_][A-Z0-9_]*\}}?[\\/]+{PART}+",  # $HOME/a, ${HOME}/a
            rf"%[A-Za-z_]\w*%[\\/]+{PART}+",  # %USERPROFILE%\a
            rf"{START}(?:\.\.[\\/]+)+{PART}+",  # ../a
        )
    )
)
HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:[\\/]+Users)[\\/]+[^\\/]+[\\/]*")  # its last part is somebody's name
# Arguments of a link that give access; the others, as ?versionId=, may stay.
SECRETS = r"(?:\w*token|api[_-]?key|key|auth|password|passwd|secret|sig|signature|\w*credential|x-amz-signature)"
TOKEN = re.compile(
    "|".join(
        (
            r"(?<![A-Za-z0-9])(?:hf|gh[oprsu]|sk|glpat|npm|pypi|dckr_pat)[_-][A-Za-z0-9_-]{16,}",
            r"(?<![A-Za-z0-9])github_pat_\w{16,}",
            r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,}",  # access keys of AWS
            r"(?<![A-Za-z0-9])xox[a-z]-[\w-]{8,}|(?<![A-Za-z0-9])xapp-[\w-]{8,}",  # Slack
            r"(?<![A-Za-z0-9])AIza[\w-]{20,}|(?<![A-Za-z0-9])ya29\.[\w-]{16,}",  # Google
            r"(?<![A-Za-z0-9])eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*",  # JSON Web Tokens
            rf"(?i:[?&;]{SECRETS}=)[^\s&\"'<>]+",
            r"-----BEGIN [A-Z0-9 ]*(?:PRIVATE KEY|CERTIFICATE|PGP)[A-Z0-9 ]*-----",  # PEM
            r"(?i:\bbearer )[\w.~+/-]{16,}",
            r"//[^/\s@\"']+:[^/\s@\"']+@",  # user and password of a link
        )
    )
)


def strip_local_paths(value: Any, spaces: bool = False) -> Any:
    """Replace local paths by their last part, and a home folder by ``~``.

    Args:
        value: text, or nested lists and mappings of texts.
        spaces: a path in the text ends with the text, as in one argument of a command, and may contain spaces.

    Example:
        >>> from pkdzoo.utils.private_text import strip_local_paths
        >>> strip_local_paths("train.py --data /my disk/coco -o=$HOME/runs/a")
        'train.py --data coco -o=a'
    """
    if isinstance(value, str):
        return _strip_to_end(value) if spaces else LOCAL_PATH.sub(lambda match: _last_part(match[0]), value)
    if isinstance(value, Mapping):
        return {str(strip_local_paths(key)): strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strip_local_paths(item) for item in value]
    return value


def _strip_to_end(text: str) -> str:
    match = LOCAL_PATH.search(text)
    return text if match is None else text[: match.start()] + _last_part(text[match.start() :])


def _last_part(path: str) -> str:
    if HOME.fullmatch(path):
        return "~"
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def find_private(text: str) -> tuple[str, str] | None:
    """The first token or local path in one line of text, JSON or Markdown.

    Returns:
        ``("token", "")``, since a token must not be printed, or ``("path", PATH)``; None for harmless text.
    """
    variants = (text, html.unescape(re.sub(r"\\([^A-Za-z0-9\s])", r"\1", text)))  # as it is written, and as it is shown
    if any(TOKEN.search(variant) for variant in variants):
        return "token", ""
    match = next(filter(None, (LOCAL_PATH.search(variant) for variant in variants)), None)
    return None if match is None else ("path", match[0])
