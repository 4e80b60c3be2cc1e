"""Offline teachers: what a teacher wrote, and thought of each token, on disk, so that it need not be loaded.

    cache = write_teacher_cache(teacher, tokenizer, task, "cache", top_k=64, temperature=0.8)
    pair = offline_pair(student, tokenizer, "cache")
    distill(pair, task, "kd", temperature=0.8)

A table of a token's log-probabilities is as wide as the vocabulary. Kept are the k likeliest and the rest in
one number, the *tail bucket*: a distribution over k + 1 outcomes. The student's table is put into the same
buckets, and every divergence reads the two as it reads any other. What is lost is how the tail is shared out:
by the data processing inequality the divergence is at most that of the whole tables, and equal where k is the
vocabulary. With k = 0 the responses alone are kept, enough for SeqKD.
"""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from minidistill.checkpoint import plain_tensors
from minidistill.generation import sample
from minidistill.logprobs import ResponseLogProbs, collate, response_log_probs, response_logits
from minidistill.models import Pair, single_model
from minidistill.models.checks import check_whole_weights, eval_mode, widen_trained_weights
from minidistill.models.making import check_options, stop_as_trained
from minidistill.objectives import Method, TrainState, get_method
from minidistill.rollouts import Rollouts
from minidistill.runlog import atomic_write, claim_folder, read_log, write_log
from minidistill.scale import fused, responses
from minidistill.tasks import Example, Task
from minidistill.utils import derive_seed

ABOUT = "cache.json"
PROMPTS_A_PART = 64  # what a kill can lose
CHUNK = fused.CHUNK
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
        "teacher": _digest_of_model(teacher), "vocabulary": _digest_of_vocabulary(tokenizer),
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


def _digest_of_vocabulary(tokenizer) -> str:
    return _digest(sorted(tokenizer.get_vocab().items()))


def _digest_of_model(model) -> str:
    """Of weights, their precision, and what the config says of how they are used."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in NOT_THE_MODEL}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for tensor in plain_tensors(model):
        found.update(str(tensor.dtype).encode())
        found.update(tensor.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()


@dataclass
class OfflinePair(Pair):
    """A student and the cache of a teacher that is not loaded."""

    cache: TeacherCache = field(kw_only=True)

    @classmethod
    def handles(cls, config) -> bool:
        return False

    @property
    def eos_token_ids(self) -> set[int]:
        return super().eos_token_ids | set(self.cache.about["stops"])

    def held_out_responses(self, prompts: Sequence, examples: Sequence[Example]) -> list[list[int]]:
        return self.cache.responses(self.cache.find(prompts, held_out=True))

    def content(self) -> list:
        return [self.cache.about[name] for name in ("teacher", "prompts", "top_k", "seed")]


def offline_pair(
    student, tokenizer, cache: TeacherCache | str | Path, own_templates: bool = False,
    template_options: dict | None = None,
) -> OfflinePair:  # fmt: skip
    """Pair a student with the cache of a teacher, whose template options hold for both.

    ValueError where the tokenizer, the options or the width of the vocabulary are others.
    """
    if not isinstance(cache, TeacherCache):
        cache = load_teacher_cache(cache)
    written = cache.about["template_options"]
    if own_templates or (template_options or {}) not in ({}, written):
        raise ValueError(
            f"{cache.folder} was written with template options {written}: leave others out"
        )
    pair = single_model(student, tokenizer)
    check_whole_weights(student)
    widen_trained_weights(student)
    if _digest_of_vocabulary(tokenizer) != cache.about["vocabulary"]:
        raise ValueError(f"{cache.folder} holds a cache made with another tokenizer")
    if pair.vocab_size < cache.about["vocab_size"]:
        raise ValueError(
            f"{cache.folder} has log-probabilities of {cache.about['vocab_size']} tokens, and the student "
            f"knows {pair.vocab_size}: call resize_token_embeddings"
        )
    width = cache.about["vocab_size"]
    return stop_as_trained(OfflinePair(None, student, tokenizer, width, written, cache=cache))


def buckets_of_states(hidden: Tensor, head: Tensor, ids: Tensor, chunk: int = CHUNK) -> Tensor:
    """Put what a head (vocab, width) makes of hidden states (tokens, width) into buckets: (tokens, k + 1).

    The tables of `chunk` tokens exist at a time, and are made again for the gradient.
    """

    def make(states: Tensor, kept: Tensor) -> Tensor:
        return into_buckets((states @ head.T).float().log_softmax(-1), kept)

    parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    return torch.cat([checkpoint(make, *part, use_reentrant=False) for part in parts])


class OfflineResponse(ResponseLogProbs):
    """A `ResponseLogProbs` whose `log_p` and `log_q` are over the teacher's k likeliest and the rest.

    `read` (batch, tokens, …): the student's log-probabilities, or its hidden states if there is a `head`.
    """

    def __init__(self, labels: Tensor, mask: Tensor, read: Tensor, teacher, head: Tensor | None):
        self.labels, self.mask, self.read, self._teacher, self.head = (
            labels,
            mask,
            read,
            teacher,
            head,
        )

    @cached_property
    def teacher(self) -> TopK:
        return self._teacher()

    @property
    def log_p(self) -> Tensor:
        return self.teacher.log_p

    @cached_property
    def log_q(self) -> Tensor:
        ids = self.teacher.ids
        if self.head is None:
            return into_buckets(self.read, ids)
        return self._spread(buckets_of_states(self.read[self.mask], self.head, ids[self.mask]))

    @cached_property
    def token_log_q(self) -> Tensor:
        if self.head is None:
            return self.read.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)
        states, labels = self.read[self.mask], self.labels[self.mask]
        return self._spread(fused.token_log_probs(states, self.head, labels))

    def _spread(self, values: Tensor) -> Tensor:
        found = values.new_zeros(*self.mask.shape, *values.shape[1:])
        return found.index_put(self.mask.nonzero(as_tuple=True), values)

    @property
    def token_log_p(self) -> Tensor:
        return self.teacher.written


class OfflineRollouts(Rollouts):
    """The responses of a cache, and what it says of them; the student as tables or as hidden states."""

    @classmethod
    def handles(cls, pair: Pair, method: Method) -> bool:
        return isinstance(pair, OfflinePair)

    def __init__(self, pair: OfflinePair, task: Task, slots: dict[str, str], config, tgo=None):
        sampled = {name: pair.cache.about[name] for name in config.sampling}
        if sampled != config.sampling:
            raise ValueError(
                f"{pair.cache.folder} was sampled with {sampled}, and this run says {config.sampling}: give "
                "the same settings"
            )
        super().__init__(pair, task, slots, config, tgo)
        self.reads_states = pair.vocab_size >= responses.LARGE
        self.reads_states &= responses.ends_in_a_matrix(pair.student, pair)
        _check_reads(get_method(config.method), slots)
        if "tgo" in self.names:
            self.places = pair.cache.find(self.prompts)
            own = pair.cache.responses(self.places)
            if self.responses.setdefault("tgo", own) != own:
                raise ValueError(
                    "an offline teacher has read its own responses alone: leave tgo out"
                )

    def read(self, model, batch) -> Tensor:
        if not self.reads_states:
            return super().read(model, batch)
        with responses.without_head(model):
            return response_logits(model, batch)

    def as_response(self, labels, mask, student: Tensor, teacher) -> OfflineResponse:
        head = None
        if self.reads_states:
            head = responses.output_head(self.pair.student).weight[: self.pair.vocab_size]
        return OfflineResponse(labels, mask, student, teacher, head)

    def _read_by_teacher(self, name: str, indices: list[int]):
        def teacher() -> TopK:
            found = self.pair.cache.top_k([self.places[i] for i in indices])
            return TopK(*(t.to(self.pair.device) for t in vars(found).values()))

        return teacher


def _check_reads(method: Method, slots: dict[str, str]) -> None:
    """Try the method on one token: ValueError where it asks the teacher about what it has not written."""
    label, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    table = torch.zeros(1, 1, 1)

    def absent(source: str):
        def teacher() -> Tensor:
            if source == "tgo":
                return table
            raise ValueError(
                f"{method.name} asks the teacher about {source}, and an offline one knows its own responses "
                "alone: take a method that reads tgo (kd, skl, seqkd) or give the teacher itself"
            )

        return teacher

    both = {
        slot: ResponseLogProbs(label, mask, table, absent(source)) for slot, source in slots.items()
    }
    with torch.random.fork_rng():
        method(both, TrainState())
