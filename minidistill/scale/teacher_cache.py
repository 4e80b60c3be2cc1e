"""A teacher's responses, and what it says of each token, on disk.

A table of a token's log-probabilities is as wide as the vocabulary. Kept are the k likeliest and the rest in
one number, the *tail bucket*: a distribution over k + 1 outcomes. With k = 0 the responses alone are kept,
enough for SeqKD. A part of the prompts is a safetensors file, read by memory map; `cache.json` says which
teacher, words and settings it was made with, and no other ones go on with it.
"""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minidistill.checkpoint import plain_tensors
from minidistill.generation import sample
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import Pair, single_model
from minidistill.models.checks import eval_mode
from minidistill.models.making import check_options
from minidistill.runlog import atomic_write, claim_folder, read_log, write_log
from minidistill.tasks import Task
from minidistill.utils import derive_seed

ABOUT = "cache.json"
PROMPTS_A_PART = 64  # what a kill can lose
ROWS = 8  # responses that are scored at a time, each token as wide as the vocabulary
Place = tuple[Path, slice]  # a part, and the tokens of a response in it


@dataclass(frozen=True)
class TopK:
    """Hold what a teacher says of tokens: its k likeliest, (…, k) ids, and log-probs of these and the rest.

    `log_p` (…, k + 1): the last is the tail bucket; (…, k) where k is the vocabulary and there is no rest.
    `written` (…): the log-probability of the token that was written.
    """

    ids: Tensor
    log_p: Tensor
    written: Tensor


def into_buckets(log_probs: Tensor, ids: Tensor) -> Tensor:
    r"""Put log-probabilities (…, vocab) into the k of `ids` (…, k) and the tail bucket: (…, k + 1).

    (14.1) tail = log Σ_{v ∉ ids} exp log_probs(v), added up over the others: 1 − Σ would round to nothing.
    No tail where ids are the whole vocabulary.
    """
    kept = log_probs.gather(-1, ids)
    if ids.shape[-1] == log_probs.shape[-1]:
        return kept
    tail = log_probs.scatter(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([kept, tail], -1)


@dataclass
class TeacherCache:
    """Read the responses of a teacher, and what it says of their tokens, from a folder, by memory map."""

    folder: Path
    about: dict

    def find(self, prompts: Sequence[Sequence[int]], held_out: bool = False) -> list["Place"]:
        """Find where the response to each prompt lies; ValueError for a prompt that is not there.

        A prompt that is asked n times has n responses, training before held-out ones: each its own.
        """
        found, taken = [], Counter()
        for number, prompt in enumerate(map(tuple, prompts), start=1):
            if prompt not in self._places:
                raise ValueError(
                    f"prompt {number} is not in {self.folder}: it was written for other prompts or another "
                    "chat template"
                )
            places = self._places[prompt][:: -1 if held_out else 1]
            found.append(places[min(taken[prompt], len(places) - 1)])
            taken[prompt] += 1
        return found

    def responses(self, places: Sequence["Place"]) -> list[list[int]]:
        """Read responses, as token ids."""
        return [rows["tokens"].tolist() for rows in self._read(places, ["tokens"])]

    def top_k(self, places: Sequence["Place"]) -> TopK:
        """Read what the teacher says of the tokens of each response, padded: (places, tokens, …)."""
        if not self.about["top_k"]:
            raise ValueError(
                f"{self.folder} holds responses alone: write it with top_k for what this method reads"
            )
        rows = list(self._read(places, ["ids", "log_p", "written"]))
        columns = {name: pad_sequence([row[name] for row in rows], True) for name in rows[0]}
        return TopK(columns["ids"].long(), columns["log_p"], columns["written"])

    @cached_property
    def _places(self) -> dict[tuple[int, ...], list["Place"]]:
        found = defaultdict(list)
        for path in _parts(self.folder):
            with _opened(path) as part:
                prompts = json.loads(part.metadata()["prompts"])
                ends = part.get_tensor("lengths").cumsum(0).tolist()
            for prompt, start, end in zip(prompts, [0, *ends], ends, strict=False):
                found[tuple(prompt)].append((path, slice(start, end)))
        return dict(found)

    def _read(self, places: Sequence["Place"], names: Sequence[str]) -> Iterator[dict]:
        for path, tokens in places:
            with _opened(path) as part:
                yield {name: part.get_slice(name)[tokens] for name in names}


def write_teacher_cache(
    teacher, tokenizer, task: Task, folder: str | Path, *, top_k: int = 64, seed: int = 0,
    temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 48,
    template_options: dict | None = None,
) -> TeacherCache:  # fmt: skip
    """Sample a teacher on all prompts of a task, training and held-out ones, and keep what it says of them.

    A part of 64 prompts is a file; the same call goes on where it was stopped. Per token 8·k + 12 bytes.
    ValueError where `folder` holds a cache of other weights, another tokenizer or other settings.
    """
    pair = single_model(teacher, tokenizer)
    if type(pair) is not Pair:
        raise ValueError(f"the teacher reads {pair.inputs}: only a teacher of text can be cached")
    if not 0 <= top_k <= pair.vocab_size:
        raise ValueError(f"top_k must be between 0 and {pair.vocab_size}, but is {top_k}")
    check_options(template_options or {}, tokenizer)
    pair.template_options = template_options or {}
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    prompts = [pair.encode(example) for example in (*task.train, *task.test)]
    about = {
        "teacher": _digest_of_model(teacher), "vocabulary": digest_of_vocabulary(tokenizer),
        "vocab_size": pair.vocab_size, "prompts": _digest([[*ids] for ids in prompts]), "top_k": top_k,
        "seed": seed, **sampling, "template_options": pair.template_options,
        "stops": sorted(pair.eos_token_ids),
    }  # fmt: skip
    folder, started = Path(folder), time.monotonic()
    with claim_folder(folder):
        _check_same_cache(folder, about)
        for start in range(0, len(prompts), PROMPTS_A_PART):
            path = folder / f"part-{start // PROMPTS_A_PART:05d}.safetensors"
            if not _is_whole(path):
                how = {**sampling, "seed": derive_seed(seed, "part", start)}
                part = prompts[start : start + PROMPTS_A_PART]
                atomic_write(path, _part(pair, part, top_k, how))
        log = read_log(folder / ABOUT)
        tokens = sum(_tokens(path) for path in _parts(folder))
        seconds = log.get("seconds", 0) + time.monotonic() - started
        size = sum(path.stat().st_size for path in _parts(folder))
        cost = {"tokens": tokens, "bytes": size, "seconds": round(seconds, 2)}
        write_log(folder / ABOUT, {**about, "parts": len(_parts(folder)), **cost})
    return load_teacher_cache(folder)


def is_cache(folder: str | Path) -> bool:
    """Tell whether a folder holds a teacher's cache."""
    return (Path(folder) / ABOUT).exists()


def load_teacher_cache(folder: str | Path) -> TeacherCache:
    """Open what `write_teacher_cache` wrote; FileNotFoundError where there is none, or not all of it."""
    folder = Path(folder)
    about = read_log(folder / ABOUT)
    if about is None or "tokens" not in about:
        raise FileNotFoundError(f"{folder} holds no finished cache of a teacher")
    if (there := len(_parts(folder))) != about["parts"]:
        raise FileNotFoundError(
            f"{folder} has {there} of the {about['parts']} parts of a cache: write it again, the rest stays"
        )
    return TeacherCache(folder, about)


def _part(pair: Pair, prompts: list, top_k: int, how: dict) -> bytes:
    """Sample and score some prompts: the tensors of one file, responses end to end."""
    written = sample(pair.student, prompts, pair, **how)
    columns: dict[str, list[Tensor]] = {"ids": [], "log_p": [], "written": []}
    for start in range(0, len(prompts) if top_k else 0, ROWS):
        rows = slice(start, start + ROWS)
        batch = collate(prompts[rows], written[rows], pair.pad_token_id, pair.device)
        with torch.no_grad(), eval_mode(pair.student):
            log_p = response_log_probs(pair.student, batch, pair.vocab_size)[batch.mask]
        ids = log_p.topk(top_k).indices
        columns["ids"].append(ids.int())
        columns["log_p"].append(into_buckets(log_p, ids))
        columns["written"].append(log_p.gather(-1, batch.labels[batch.mask][:, None])[:, 0])
    tensors = {name: torch.cat(parts).cpu() for name, parts in columns.items() if parts}
    tensors["tokens"] = torch.tensor(sum(written, []), dtype=torch.int32)
    tensors["lengths"] = torch.tensor([len(y) for y in written])
    return save(tensors, {"prompts": json.dumps([[*ids] for ids in prompts])})


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.safetensors"))


@contextmanager
def _opened(path: Path):
    try:
        with safe_open(path, "pt") as part:
            yield part
    except SafetensorError as error:
        raise OSError(
            f"{path} is damaged ({error}): write the cache again, the rest stays"
        ) from None


def _is_whole(path: Path) -> bool:
    try:
        return path.exists() and _tokens(path) >= 0
    except OSError:
        return False


def _tokens(path: Path) -> int:
    with _opened(path) as part:
        return part.get_slice("tokens").get_shape()[0]


NOT_THE_MODEL = ("_name_or_path", "transformers_version", "eos_token_id", "pad_token_id")
WORDS = {
    "teacher": "other weights", "vocabulary": "another tokenizer", "prompts": "other prompts or templates",
}  # fmt: skip


def _check_same_cache(folder: Path, about: dict) -> None:
    """ValueError where the folder holds another cache; an empty one is told what it is going to hold."""
    saved = read_log(folder / ABOUT)
    if saved is None:
        if _parts(folder):
            raise ValueError(
                f"{folder} holds parts of a cache, and nothing says of which teacher: give another folder"
            )
        write_log(folder / ABOUT, about)
        return
    for name, value in about.items():
        if saved[name] != value:
            other = WORDS.get(name, f"{name} {saved[name]}, and this is {value}")
            raise ValueError(f"{folder} holds a cache made with {other}: give another folder")


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def digest_of_vocabulary(tokenizer) -> str:
    """Hash a tokenizer's words with their ids: equal for a teacher and a student that share them."""
    return _digest(sorted(tokenizer.get_vocab().items()))


def _digest_of_model(model) -> str:
    """Of weights, their precision, and what the config says of how they are used."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in NOT_THE_MODEL}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for tensor in plain_tensors(model):
        found.update(str(tensor.dtype).encode())
        found.update(tensor.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()
