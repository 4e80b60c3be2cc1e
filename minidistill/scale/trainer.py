"""`DistillTrainer`: the course's methods in transformers' Trainer, for several processes and any logger.

    args = DistillTrainingArguments("out", method="distillm2", num_train_epochs=3, learning_rate=1e-3)
    trainer = DistillTrainer(student, teacher, args, train_dataset, eval_dataset, processing_class=tokenizer)
    trainer.train()

Before an epoch the responses are sampled, a share of the prompts in each process; within it a batch is a
list of prompts' numbers, and the loss is the method's on their responses. Methods, sources, settings,
templates and checks are those of `distill`; optimizer, schedule, precision, accumulation, checkpoints and
logging are the Trainer's. A run in two processes takes the steps of a run in one, within rounding.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from minidistill.checkpoint import check_same_run, fingerprint
from minidistill.config import DistillConfig
from minidistill.evaluation import HeldOutResponses, evaluate, make_probe, nll
from minidistill.logprobs import response_log_probs, response_logits
from minidistill.models import make_pair
from minidistill.objectives import TrainState, get_method
from minidistill.rollouts import Rollouts, rollouts_class
from minidistill.scale.offline import offline_pair
from minidistill.scale.responses import without_head
from minidistill.scale.teacher_cache import TeacherCache
from minidistill.sources import SOURCES, resolve_sources
from minidistill.tasks import Example, Task
from minidistill.tasks.prompt_files import as_prompt
from minidistill.utils import derive_seed, missing_extra_message, quiet

with quiet():  # what is installed beside them says what it cannot do
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

try:
    from accelerate import PartialState
    from accelerate.utils import gather_object
except ModuleNotFoundError:
    raise ModuleNotFoundError(missing_extra_message("accelerate", "scale")) from None

SHARE = 128  # prompts that a process samples at a time, however many processes there are
STATE = "distillation_{}.json"  # of each process, beside the Trainer's own files


@dataclass
class DistillTrainingArguments(TrainingArguments):
    """Hold the Trainer's arguments and those of a distillation; ValueError as in `DistillConfig`.

    `method`, `method_kwargs`, `feed`, `temperature`, `top_p`, `max_new_tokens` as in `distill`.
    `own_templates`, `template_options` as in `load_pair`.
    """

    method: str = "distillm2"
    method_kwargs: dict = field(default_factory=dict)
    feed: dict = field(default_factory=dict)
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    own_templates: bool = False
    template_options: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        get_method(self.method).check_settings(self.method_kwargs)
        if self.fsdp or self.deepspeed:
            raise ValueError(
                "FSDP and DeepSpeed split the weights, which sampling and the head need whole: give each "
                "process the whole models"
            )
        # a batch holds numbers of prompts: nothing to drop, nothing to pin
        self.remove_unused_columns = self.dataloader_pin_memory = False
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = (
                False  # the head is used outside of the model's forward
            )

    def distill_config(self) -> DistillConfig:
        """The same settings as `distill` takes them."""
        parts = self.gradient_accumulation_steps
        return DistillConfig(
            self.method, max(1, int(self.num_train_epochs)), self.seed,
            self.per_device_train_batch_size * parts * self.world_size, parts, self.learning_rate,
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens,
            max_grad_norm=self.max_grad_norm or math.inf, adam_beta2=self.adam_beta2,
            source_overrides=self.feed,
        )  # fmt: skip


class DistillTrainer(Trainer):
    """Distil `teacher_model` into `model` on prompts, in the way of transformers.

    Datasets: rows in the formats that `load_task` reads (prompt, messages, question …), such as a
    `datasets.Dataset`, or `Example`s. `processing_class`: the student's tokenizer;
    `teacher_model`: a model, or what `offline.load_teacher_cache` gives; `teacher_processing_class`: its
    tokenizer, if it is another object. `peft_config`: train adapters.
    Evaluation gives eval_nll_teacher, eval_nll_student and, with references, eval_rouge_l.
    """

    def __init__(
        self, model, teacher_model, args: DistillTrainingArguments, train_dataset, eval_dataset=None,
        processing_class=None, teacher_processing_class=None, peft_config=None, **more,
    ):  # fmt: skip
        if processing_class is None:
            raise ValueError("processing_class must be the student's tokenizer")
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        how = {"own_templates": args.own_templates, "template_options": args.template_options}
        if isinstance(teacher_model, TeacherCache):
            self.pair = offline_pair(model, processing_class, teacher_model, **how)
        else:
            teachers = teacher_processing_class or processing_class
            self.pair = make_pair(teacher_model, teachers, model, processing_class, **how)
        held_out = _examples(eval_dataset) if eval_dataset is not None else []
        self.task = Task("prompts", _examples(train_dataset), held_out)
        super().__init__(
            self.pair.student, args, data_collator=_numbers, train_dataset=range(len(self.task.train)),
            eval_dataset=range(len(held_out)) if held_out else None,
            processing_class=processing_class, **more,
        )  # fmt: skip
        self.loss_is_scaled_for_ga, self._loss_shifts_labels = True, False
        self.model_accepts_loss_kwargs = (
            True  # then samples are counted over all accumulated batches
        )
        self.method = get_method(args.method)
        self.distillation = TrainState(epochs=int(args.num_train_epochs))
        slots = resolve_sources(self.method.reads, args.feed)
        kind = _shared_out(rollouts_class(self.pair, self.method))
        config = args.distill_config()
        self.rollouts = kind(self.pair, self.task, slots, config)
        self.settings = {**asdict(config), **args.method_kwargs}
        self.fingerprint = fingerprint(self.pair, self.task, config, args.method_kwargs)
        if "replay" in self.rollouts.names and not held_out:
            raise ValueError(
                f"{args.method} steers its sampler by held-out prompts: give an eval_dataset"
            )
        self.probe: HeldOutResponses | None = None
        self.collected = -1  # the last epoch whose responses are there
        self.add_callback(_Moments(self))

    # --- a step -------------------------------------------------------------------------------------
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The method's loss on a batch's responses: its part of the mean over all accumulated ones."""
        indices = inputs["labels"].tolist()
        self.rollouts.wrapped = model
        at = self.distillation
        at.epoch, at.progress = self.collected, self.state.global_step / self.state.max_steps
        self.rollouts.collect_step(at.epoch, self.state.global_step, indices, at.progress)
        losses = self.method(self.rollouts.score(indices), at, **self.args.method_kwargs)
        if not torch.isfinite(losses).all():
            place = indices[int((~torch.isfinite(losses)).nonzero()[0])]
            raise FloatingPointError(
                f"step {self.state.global_step}: the loss of training prompt {place} is not finite "
                f"({self.task.train[place].prompt[:80]!r}); the last checkpoint stays"
            )
        total = num_items_in_batch if num_items_in_batch is not None else len(losses)
        loss = losses.sum() / total * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """What a method records (alpha, beta, …) goes to the loggers with the loss."""
        if "loss" in logs:
            logs = {**logs, **self.distillation.log}
        super().log(logs, *args, **kwargs)

    # --- before an epoch ----------------------------------------------------------------------------
    def collect(self, epoch: int) -> None:
        """Sample what is written anew; add up over all processes what the first epoch measured."""
        if epoch == self.collected:
            return  # resumed within this epoch
        if epoch == 1:
            every = gather_object(
                [{k: t.state_dict() for k, t in self.distillation.trackers.items()}]
            )
            for slot, tracker in self.distillation.trackers.items():
                parts = [found[slot] for found in every]
                tracker.gap_sum = sum(part["gap_sum"] for part in parts)
                tracker.count = sum(part["count"] for part in parts)
        self.rollouts.collect(epoch)
        self.collected = epoch

    def update_phi(self) -> None:
        """Tell DistiLLM's adaptive sampler the student's NLL on held-out responses, if there is one."""
        if "replay" in self.rollouts.names:
            replay = self.rollouts.replay
            replay.update_phi(nll(self.pair.student, self.pair, self.probe.prompts, self.probe.tgo))
            self.distillation.log["phi"] = replay.phi

    # --- evaluation ---------------------------------------------------------------------------------
    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> dict[str, float]:
        """NLLs on held-out responses of the teacher and of the student before training; ROUGE-L, greedy."""
        if not self.task.test:
            raise ValueError("there is no eval_dataset to evaluate on")
        self._make_probe()
        scores = evaluate(self.pair, self.task, self.probe, max_new_tokens=self.args.max_new_tokens)
        names = ("nll_teacher", "nll_student", "rouge_l")
        found = {f"{metric_key_prefix}_{n}": getattr(scores, n) for n in names}
        found = {name: value for name, value in found.items() if value is not None}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _make_probe(self) -> None:
        if self.probe is None and self.task.test:
            how = self.args.distill_config().sampling
            self.probe = make_probe(
                self.pair, self.task, seed=derive_seed(self.args.seed, "probe"), **how
            )

    # --- checkpoints --------------------------------------------------------------------------------
    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """As the Trainer's; True resumes from the last checkpoint that was finished, if there is one."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        self._make_probe()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        """Ours first: a checkpoint counts once the Trainer has written its state, the last of its files."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "collected": self.collected, "rollouts": self.rollouts.state(),
            "distillation": self.distillation.state_dict(), "processes": self.accelerator.num_processes,
            "probe": self.probe.to_dict() if self.probe else None,
            "fingerprint": self.fingerprint, "settings": self.settings,
        }  # fmt: skip
        path = folder / STATE.format(self.args.process_index)
        path.write_text(json.dumps(state), encoding="utf-8")
        super()._save_checkpoint(model, trial)

    def _restore(self, folder: Path) -> None:
        path = folder / STATE.format(self.args.process_index)
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} has no {path.name}: it is no checkpoint of a distillation"
            )
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{folder} was written by {state['processes']} processes, and these are "
                f"{self.accelerator.num_processes}: resume with as many"
            )
        check_same_run(folder.parent, state, self.fingerprint)
        self.collected = state["collected"]
        self.rollouts.restore(state["rollouts"])
        self.distillation.load_state_dict(state["distillation"])
        if state["probe"]:
            self.probe = HeldOutResponses.from_dict(state["probe"], self.pair, self.task)


class _Moments(TrainerCallback):
    """Tell the trainer where an epoch begins, and twenty times a run where DistiLLM's sampler looks up."""

    def __init__(self, trainer: DistillTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == 0:
            self.trainer.update_phi()

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.collect(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % max(1, state.max_steps // 20) == 0:
            self.trainer.update_phi()


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Find the last checkpoint whose files were all written; None if there is none."""
    found = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")
    steps = {int(path.parent.name.rpartition("-")[2]): str(path.parent) for path in found}
    return steps[max(steps)] if steps else None


def _examples(rows: Sequence) -> list[Example]:
    """Read the rows of a dataset; ValueError names the row and what is wrong with it."""
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(row if isinstance(row, Example) else as_prompt(dict(row), Path()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {number}: {error}") from None
    return found


def _numbers(rows: list[int]) -> dict[str, torch.Tensor]:
    """A batch: numbers of prompts, under the name whose entries the Trainer counts."""
    return {"labels": torch.tensor(rows)}


def _shared_out(kind: type[Rollouts]) -> type[Rollouts]:
    """The same rollouts, sampled by all processes and read through the wrapper that adds up gradients."""

    class SharedRollouts(kind):
        wrapped = None

        @classmethod
        def handles(cls, pair, method) -> bool:
            return False

        def collect(self, epoch: int) -> None:
            state = PartialState()
            for name in self.names:
                refresh = SOURCES[name].refresh
                if refresh == "step" or (refresh == "once" and name in self.responses):
                    continue
                self._teacher_cache.pop(name, None)
                ours = {}
                starts = range(0, len(self.prompts), SHARE)
                for start in starts[state.process_index :: state.num_processes]:
                    indices = list(range(len(self.prompts)))[start : start + SHARE]
                    ctx = self._context(indices, epoch, "sample", epoch, start)
                    ours |= dict(zip(indices, SOURCES[name].generate(ctx), strict=True))
                every = {i: y for found in gather_object([ours]) for i, y in found.items()}
                self.responses[name] = [every[i] for i in range(len(self.prompts))]

        def read(self, model, batch):
            """The student through the wrapper, which adds up gradients over the processes in backward."""
            if model is not self.pair.student or self.wrapped in (None, model):
                return super().read(model, batch)
            if not getattr(self, "reads_states", False):
                return response_log_probs(self.wrapped, batch, self.pair.vocab_size)
            with without_head(model):
                return response_logits(self.wrapped, batch)

    return SharedRollouts
