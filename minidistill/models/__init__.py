"""Teacher–student pairs: tiny presets, shipped ones, and any two Hugging Face causal LMs."""

from minidistill.models.checks import check_causal, check_same_tokens, eval_mode
from minidistill.models.loading import load_model, load_pair
from minidistill.models.making import make_pair, single_model
from minidistill.models.pair import Pair, load_complete, pair_class
from minidistill.models.tiny import TINY, tiny_config, tiny_model, word_tokenizer

__all__ = [
    "TINY", "Pair", "check_causal", "check_same_tokens", "eval_mode", "load_complete", "load_model",
    "load_pair", "make_pair", "pair_class", "single_model", "tiny_config", "tiny_model", "word_tokenizer",
]  # fmt: skip
