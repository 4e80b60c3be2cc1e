"""Checkpoints that are whole or not there."""

import errno
import os
import warnings

import pytest
import torch

from minidistill import checkpoint


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


def save(folder, *steps):
    for step in steps:
        checkpoint.save(folder, step, {"step": step, "weight": torch.full((3,), float(step))})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded_and_only_the_last_two_are_kept(folder):
    save(folder, 1, 20, 300)
    assert [name.split("-")[1] for name in names(folder)] == ["00000020", "00000300"]
    state = checkpoint.load_latest(folder)
    assert state["step"] == 300
    assert torch.equal(state["weight"], torch.full((3,), 300.0))


def test_nothing_saved_loads_nothing(folder):
    assert checkpoint.load_latest(folder) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_newest_is_named_and_the_one_before_is_used(folder, damage):
    save(folder, 1, 2)
    newest = max(folder.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-10], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=newest.name):
        assert checkpoint.load_latest(folder)["step"] == 1


def test_if_all_are_damaged_each_is_named_and_the_run_can_save_and_load_again(folder):
    save(folder, 10, 20)
    for path in folder.iterdir():
        path.write_bytes(b"x")
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert checkpoint.load_latest(folder) is None
    assert len(caught) == 2
    save(folder, 5)
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.load_latest(folder)["step"] == 5


def test_a_half_written_file_is_ignored(folder):
    save(folder, 1)
    (folder / ".saving-7-step-00000002-0123456789abcdef.pt").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load_latest(folder)["step"] == 1


def test_a_write_that_dies_before_the_rename_leaves_the_old_ones_alone(folder, monkeypatch):
    save(folder, 1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(folder, 2)
    assert checkpoint.load_latest(folder)["step"] == 1


@pytest.mark.parametrize(
    ("target", "code"),
    [("os.replace", errno.EACCES), ("os.fsync", errno.ENOSPC), ("builtins.open", errno.EROFS)],
)
def test_a_full_disk_or_a_read_only_folder_gives_a_sentence(folder, monkeypatch, target, code):
    save(folder, 1)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(target, refuse)
        with pytest.raises(OSError, match=f"could not write .*: {os.strerror(code)}") as error:
            save(folder, 2)
    assert str(folder) in str(error.value)
    assert "what was saved before is untouched" in str(error.value)
    assert checkpoint.load_latest(folder)["step"] == 1


def test_a_folder_that_cannot_be_made_gives_the_same_sentence(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="could not write"):
        save(tmp_path / "run" / "checkpoints", 1)


def test_nothing_but_tensors_and_plain_values_is_loaded(folder):
    checkpoint.save(folder, 1, {"code": os.system})
    with pytest.raises(Exception, match="(?i)weights_only|weights only"):
        checkpoint.load_latest(folder)
