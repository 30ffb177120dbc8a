"""Files that are opened without following a symbolic link."""

import os

import pytest

from pkdzoo.utils.files import open_regular_file


@pytest.fixture
def secret(tmp_path):
    """A private file outside the folder that is read."""
    path = tmp_path / "home" / "key"
    path.parent.mkdir()
    path.write_bytes(b"private")
    return path


def test_a_link_to_a_file_is_not_opened(tmp_path, secret):
    link = tmp_path / "image.png"
    link.symlink_to(secret)
    with pytest.raises(ValueError, match=r"image\.png is a symbolic link.*put a copy"):
        open_regular_file(link)


def test_a_link_to_a_folder_is_refused_below_the_folder_that_was_named(tmp_path, secret):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best").symlink_to(secret.parent)
    with pytest.raises(ValueError, match="best is a symbolic link"):
        open_regular_file(run / "best" / "key", within=run)
    outer = tmp_path / "runs"
    outer.symlink_to(secret.parent)  # the user's own link, above what was named
    with open_regular_file(outer / "key", within=outer) as file:
        assert file.read() == b"private"


def test_a_missing_file_is_named_and_a_pipe_neither_blocks_nor_opens(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_regular_file(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a file"):
        open_regular_file(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a file"):
        open_regular_file(tmp_path)
