"""What can be done with which architecture of transformers: each tried on a tiny random pair.

`python -m tests.core.test_architectures > data/ARCHITECTURES.md` writes the table that is compared here.
"""

import copy
import warnings

import pytest
import transformers

from minidistill import distill
from minidistill.applications.pruning import prune_layers
from minidistill.applications.quantization import quantize_model
from minidistill.applications.speculative import speculate
from minidistill.generation import sample
from minidistill.models import load_model, make_pair
from minidistill.runlog import save_folder
from minidistill.tasks import Example, Task
from minidistill.utils import data_dir
from tests.tiny import byte_tokenizer, tiny_lm

WIDTH = {"head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
ROTARY = {**GPT, "rotary_dim": 4}
FOUR_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_group": 1,
    "topk_group": 1, "num_key_value_heads": 4, "first_k_dense_replace": 1,
}  # fmt: skip
KINDS = {
    "apertus": {}, "arcee": {}, "biogpt": {}, "bitnet": {}, "bloom": {"n_layer": 4, "n_head": 4},
    "codegen": ROTARY, "cohere": {}, "cohere2": {}, "ctrl": {}, "deepseek_v3": LATENT, "diffllama": {},
    "doge": {}, "ernie4_5": WIDTH, "exaone4": {}, "falcon": {}, "gemma": WIDTH, "gemma2": WIDTH,
    "gemma3_text": WIDTH, "glm": WIDTH, "glm4": WIDTH, "gpt2": GPT, "gpt_bigcode": GPT,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_heads": 4},
    "gpt_neox": {}, "gpt_oss": {**WIDTH, **FOUR_EXPERTS}, "gptj": ROTARY, "granite": {},
    "granitemoe": FOUR_EXPERTS, "helium": WIDTH, "hunyuan_v1_dense": WIDTH, "lfm2": {}, "llama": {},
    "llama4_text": {**WIDTH, "num_local_experts": 2, "intermediate_size_mlp": 64}, "mamba": {"state_size": 8},
    "minimax": {}, "mistral": {"sliding_window": 8}, "mixtral": FOUR_EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4}, "nemotron": {}, "olmo": {}, "olmo2": {}, "olmo3": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2}, "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": {}, "phi": {}, "phi3": {}, "phimoe": FOUR_EXPERTS, "qwen2": {},
    "qwen2_moe": {**SMALL_EXPERTS, "shared_expert_intermediate_size": 32}, "qwen3": WIDTH,
    "qwen3_moe": {**WIDTH, **SMALL_EXPERTS}, "recurrent_gemma": {}, "rwkv": {}, "seed_oss": WIDTH,
    "smollm3": {}, "stablelm": {}, "starcoder2": {},
    "xglm": {"attention_heads": 4, "num_layers": 4, "d_model": 32, "ffn_dim": 64},
}  # fmt: skip
TABLE = data_dir() / "ARCHITECTURES.md"
TASK = Task("t", [Example(f"say {i}") for i in range(4)], [Example("x"), Example("y")])


def _sample(pair, folder):
    written = sample(
        pair.student, [pair.encode("hi"), pair.encode("hello")], pair, max_new_tokens=4
    )
    assert all(written)


def _distil(pair, folder):
    how = {"epochs": 1, "batch_size": 2, "max_new_tokens": 4, "progress": False}
    history = distill(pair, TASK, "distillm2", **how)
    assert all(step["grad_norm"] > 0 for step in history.steps)


def _prune(pair, folder):
    """Layers 0, 2, 3 of four; loaded again it says the same."""
    student = prune_layers(pair.teacher, [0, 2, 3]).eval()
    save_folder(folder, student, pair.tokenizer)
    again, _ = load_model(folder)
    ids = {"input_ids": student.dummy_inputs["input_ids"][:1].remainder(200)}
    ours, theirs = (model.eval()(**ids).logits for model in (student, again))
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()


def _quantize(pair, folder):
    """'in part' where experts stay as they are."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quantize_model(copy.deepcopy(pair.teacher), 4, group=8)
    return "in part" if any("experts" in str(w.message) for w in said) else "yes"


def _speculate(pair, folder):
    """Greedy, and past any window: the target's own text."""
    prompt, how = pair.encode("a prompt of some length"), {"max_new_tokens": 24, "temperature": 0}
    assert speculate(pair, prompt, **how).tokens == sample(pair.teacher, [prompt], pair, **how)[0]


STEPS = {
    "sample": _sample, "distil": _distil, "prune": _prune, "quantize": _quantize, "speculate": _speculate,
}  # fmt: skip


def attempt(step, *arguments) -> str:
    """'yes', what the step says, or 'no' where it is refused in a sentence; nothing else may be raised."""
    try:
        return step(*arguments) or "yes"
    except ValueError:
        return "no"


def row(kind: str, folder) -> dict[str, str]:
    tokenizer = byte_tokenizer()
    models = [tiny_lm(kind, tokenizer, seed, layers=4, **KINDS[kind]) for seed in (1, 2)]
    try:
        pair = make_pair(models[0], tokenizer, models[1], tokenizer)
    except ValueError:
        return dict.fromkeys(["load", *STEPS], "no")
    return {"load": "yes"} | {
        name: attempt(step, pair, folder / name) for name, step in STEPS.items()
    }


def shipped() -> dict[str, dict[str, str]]:
    lines = [
        line.strip("| ").split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines()
    ]
    names, *rows = (
        cells for cells in lines if len(cells) == len(STEPS) + 2 and "---" not in cells[0]
    )
    return {cells[0].strip("`"): dict(zip(names[1:], cells[1:], strict=True)) for cells in rows}


def test_the_table_names_every_kind():
    assert list(shipped()) == list(KINDS)
    assert len(KINDS) >= 40


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_the_table_says_what_happens(kind, tmp_path):
    assert row(kind, tmp_path) == shipped()[kind]


if __name__ == "__main__":
    from pathlib import Path
    from tempfile import TemporaryDirectory

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    print("# Architectures\n")
    print(
        f"What each of {len(KINDS)} architectures of transformers {transformers.__version__} "
        "can be asked for,"
    )
    print(
        "tried on tiny random pairs with `python -m tests.core.test_architectures`. *no*: refused in a"
    )
    print("sentence. *in part*: the experts of a mixture stay as they are.\n")
    print("| kind | " + " | ".join(["load", *STEPS]) + " |")
    print("|---" * (len(STEPS) + 2) + "|")
    for kind in KINDS:
        with TemporaryDirectory() as folder:
            cells = row(kind, Path(folder))
        print(f"| `{kind}` | " + " | ".join(cells.values()) + " |", flush=True)
