"""Lessons whose cells hand tensors to the models run where the models stand on another device."""

import copy
import json
from pathlib import Path

import pytest
import torch

from minidistill.applications.quantization import load_packed, quantize_model, save_packed
from minidistill.models import pair as pairs
from tests.conftest import build_pair
from tests.second_device import SECOND, SecondDevice

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = [
    "03_responses",
    "05_cald",
    "06_data_curation",
    "07_curriculum",
    "11_vision",
]


@pytest.fixture(autouse=True)
def second(monkeypatch):
    monkeypatch.setattr(pairs, "pick_device", lambda: SECOND)
    with SecondDevice():
        yield


# --- the device itself ------------------------------------------------------------------------------
def test_tensors_of_two_devices_do_not_meet():
    here, there = torch.ones(3), torch.ones(3, device=SECOND)
    assert (there + there).device == SECOND != (here + here).device
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([there, here])
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_what_a_gpu_allows_is_allowed():
    here, there = torch.ones(3), torch.ones(3, device=SECOND)
    assert (there * torch.tensor(2.0)).device == SECOND  # a number
    assert there[torch.tensor([0, 1])].device == SECOND  # an index
    assert there.cpu().add(here).device == torch.device("cpu")
    assert here.to(SECOND).add(there).device == SECOND
    assert hasattr(there, "_second")
    assert not hasattr(here, "_second")


def test_a_model_and_its_gradients_move():
    model = torch.nn.Linear(2, 1).to(SECOND)
    model(torch.ones(1, 2, device=SECOND)).sum().backward()
    assert model.weight.grad.device == SECOND
    assert copy.deepcopy(model).weight.device == SECOND
    with pytest.raises(RuntimeError, match="same device"):
        model(torch.ones(1, 2))


def test_packed_weights_are_loaded_to_where_the_model_stands(tokenizer, tmp_path):
    packed, fresh = build_pair(tokenizer), build_pair(tokenizer)
    save_packed(quantize_model(packed.student, 4, 16), tmp_path / "packed")
    load_packed(fresh.student, tmp_path / "packed")
    ids = torch.tensor([[5, 6, 7]], device=SECOND)
    torch.testing.assert_close(fresh.student(ids).logits, packed.student(ids).logits)


# --- lessons ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_where_models_stand_on_another_device(name, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    for cell in json.loads(Path(f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            result = shell.run_cell("".join(cell["source"]), store_history=False)
            if "raises-exception" not in cell["metadata"].get("tags", []):
                result.raise_error()
