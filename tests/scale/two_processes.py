"""A short run of `DistillTrainer` whose losses go to a file: alone, or started twice by torchrun.

python -m tests.scale.two_processes METHOD FOLDER PER_DEVICE_BATCH [resume]
"""

import json
import sys
from pathlib import Path

import torch

from minidistill.scale import responses, trainer
from minidistill.scale.trainer import DistillTrainer, DistillTrainingArguments
from tests.tiny import byte_tokenizer, tiny_lm

ROWS = [{"prompt": f"prompt {i}", "completion": f"answer {i}"} for i in range(20)]


def main(method: str, folder: str, batch: str, large: str = "tables") -> None:
    torch.set_num_threads(1)
    trainer.SHARE = 3  # so that both have something to sample
    if large == "hidden":
        responses.LARGE = 1
    tokenizer = byte_tokenizer()
    teacher, student = (tiny_lm("llama", tokenizer, seed) for seed in (1, 2))
    args = DistillTrainingArguments(
        folder, method=method, per_device_train_batch_size=int(batch), num_train_epochs=2,
        learning_rate=1e-3, max_new_tokens=6, logging_steps=1, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, seed=3,
    )  # fmt: skip
    run = DistillTrainer(student, teacher, args, ROWS[:16], ROWS[16:], processing_class=tokenizer)
    run.train()
    found = run.evaluate()
    if run.is_world_process_zero():
        losses = [row["loss"] for row in run.state.log_history if "loss" in row]
        told = {"losses": losses, "eval": found, "processes": run.accelerator.num_processes}
        Path(folder, "told.json").write_text(json.dumps(told))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
