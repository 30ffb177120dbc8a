"""Files that are opened without following a symbolic link, and folders that are written whole."""

import os

import pytest

from pkdzoo.utils.files import atomic_folder, open_regular_file


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


def filled(folder):
    with atomic_folder(folder) as temporary:
        (temporary / "a").mkdir()
        (temporary / "a" / "file").write_text("1")
        (temporary / "b").write_text("2")


@pytest.mark.parametrize("kind", ["missing", "empty", "link", "current", "dot"])
def test_a_folder_is_written_whole(tmp_path, monkeypatch, kind):
    folder, named = tmp_path / "new", tmp_path / "new"
    if kind != "missing":
        folder.mkdir()
    if kind == "link":
        named = tmp_path / "link"
        named.symlink_to(folder)
    if kind in ("current", "dot"):
        monkeypatch.chdir(folder)
        named = folder if kind == "current" else type(folder)(".")
    filled(named)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == (["link", "new"] if kind == "link" else ["new"])
    with pytest.raises(OSError, match="not empty"):
        filled(named)


@pytest.mark.parametrize("link", [False, True])
def test_an_error_leaves_nothing_of_a_folder(tmp_path, monkeypatch, link):
    (tmp_path / "folder").mkdir()
    named = tmp_path / "folder"
    if link:
        named = tmp_path / "link"
        named.symlink_to(tmp_path / "folder")
    rename = os.rename

    def fail(source, target):
        if str(target).endswith("b") or not link:
            raise OSError("disk")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(OSError, match="disk"):
            filled(named)
    assert not list((tmp_path / "folder").iterdir())
    assert len(list(tmp_path.iterdir())) == 1 + link
