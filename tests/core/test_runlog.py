"""Folders that are one run's, and models that are saved whole or not at all."""

import json
import os
import subprocess
import sys

import pytest

from minidistill import runlog
from minidistill.models import load_model
from minidistill.runlog import claim_folder, save_folder
from minidistill.utils import data_dir
from tests.commands import call

TEACHER = data_dir() / "instruct" / "teacher"
HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom minidistill.runlog import claim_folder\n"
    "with claim_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path):
    """A process that is at work in tmp_path/out."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_two_runs_do_not_share_a_folder(tmp_path, holder):
    words = f"out is in use by another run \\(process {holder.pid}\\): give another folder"
    with pytest.raises(ValueError, match=words), claim_folder(tmp_path / "out"):
        pass
    done = call("prune", "--teacher", TEACHER, "--keep", 2, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"process {holder.pid}" in done.stderr
    holder.kill()
    holder.wait()
    with claim_folder(tmp_path / "out"):  # a process that is gone holds nobody up
        pass


def test_what_a_kill_left_half_written_goes_with_the_next_claim(tmp_path, monkeypatch):
    paths = [tmp_path / "result.json", tmp_path / "checkpoints" / "step-1.pt"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        for path in paths:
            with pytest.raises(KeyboardInterrupt):
                runlog.atomic_write(path, b"half")
    (tmp_path / "notes.tmp").write_text("mine")
    assert all(len(list(path.parent.glob(f".*{path.name}"))) == 1 for path in paths)
    with claim_folder(tmp_path):
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".lock", ".lock.owner", "notes.tmp"}


def test_nothing_that_is_read_is_overwritten(tmp_path):
    """A model, the one that adapters stand beside, and a file of the run's own name."""
    out = tmp_path / "out"
    (out / "student").mkdir(parents=True)
    (out / "preferences.jsonl").write_text("{}")
    (out / "mine.jsonl").write_text("{}")
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    config = {"base_model_name_or_path": str(out / "student")}
    (adapters / "adapter_config.json").write_text(json.dumps(config))
    for read in (out, out / "student", adapters, out / "preferences.jsonl"):
        with (
            pytest.raises(ValueError, match="would overwrite .*, which is read"),
            claim_folder(out, read),
        ):
            pass
    for config in ("", "[]", '{"base_model_name_or_path": "me/mine"}'):
        (adapters / "adapter_config.json").write_text(config)
        with claim_folder(out, adapters, out / "mine.jsonl", None, "me/mine"):
            pass


@pytest.mark.parametrize("name", ["student", "checkpoints"])
def test_a_file_where_a_folder_is_to_be_is_found_before_training(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(OSError, match=f"{name} is a file there"), claim_folder(tmp_path):
        pass


def test_a_claim_leaves_nothing_and_may_be_made_again_inside(tmp_path):
    out = tmp_path / "a" / "out"
    with claim_folder(out), claim_folder(out):
        (out / "file").write_text("")
    assert [path.name for path in out.iterdir()] == ["file"]
    with claim_folder(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("inside", ["", "student"])
def test_a_run_does_not_overwrite_what_it_reads(tmp_path, inside):
    (source := tmp_path / "out" / inside).mkdir(parents=True)
    words = "out would overwrite .*, which is read: give another folder"
    read = (None, "a/hub_name", source)
    with pytest.raises(ValueError, match=words), claim_folder(tmp_path / "out", *read):
        pass


def test_prune_and_distill_refuse_the_folders_that_they_read(tmp_path):
    copied = tmp_path / "model"
    save_folder(copied, *load_model(TEACHER))
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert (
        "would overwrite" in call("prune", "--teacher", copied, "--keep", 2, "--out", copied).stderr
    )
    done = call("distill", "--task", "instruct", "--student", copied, "--out", copied)
    assert "would overwrite" in done.stderr
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_folder_where_nothing_can_be_written_is_named_first(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="could not write .*file/out"),
        claim_folder(tmp_path / "file" / "out"),
    ):
        pass


# --- saving ---------------------------------------------------------------------------------------------
class Part:
    """Writes files as models do, and may run out of room."""

    def __init__(self, *names, full=False):
        self.names, self.full = names, full

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            (folder / name).write_text("new")
            (folder / name).chmod(0o600)
        if self.full:
            raise OSError(28, "No space left on device")


def test_another_model_in_the_folder_goes_and_other_files_stay(tmp_path):
    for name in (
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "adapter_config.json",
    ):
        (tmp_path / name).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".saving-1").mkdir()  # left by a process that was killed
    (tmp_path / "vectors.safetensors").write_text("mine")
    save_folder(tmp_path, Part("model.safetensors", "config.json"), Part("tokenizer.json"))
    kept = [
        "config.json",
        "model.safetensors",
        "notes.txt",
        "tokenizer.json",
        "vectors.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~runlog._umask()}


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path, there):
    folder = tmp_path / "model"
    if there:
        folder.mkdir()
        (folder / "model.safetensors").write_text("old")
    with pytest.raises(
        OSError, match=r"could not write .*model: No space left .* nothing of it was saved"
    ):
        save_folder(folder, Part("config.json"), Part("model.safetensors", full=True))
    assert folder.exists() == there
    if there:
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("model.safetensors", "old")]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
def test_prune_onto_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system mounts nothing")
    try:
        done = call("prune", "--teacher", TEACHER, "--keep", 2, "--out", disk / "student")
        assert (done.returncode, list(disk.iterdir())) == (2, [])
        assert "could not write" in done.stderr
        assert "No space left on device" in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)
