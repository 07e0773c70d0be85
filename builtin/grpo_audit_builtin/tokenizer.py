"""The tokenizer of the miniature: byte-level BPE with 512 entries, every digit a token of its own.

Being byte-level it encodes any text; the six tags of the world are single tokens, which keeps completions short.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grpo_audit_builtin.world import Example

VOCABULARY = 512
PAD, END = "<|pad|>", "<|end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<tool>", "</tool>")


def build_tokenizer(examples: Iterable[Example]) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the texts of these examples."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts(examples), trainer)
    raw.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )


def texts(examples: Iterable[Example]) -> Iterable[str]:
    """Prompts and completions, without the tags that are tokens already."""
    for example in examples:
        yield example.prompt
        text = example.completion
        for tag in TAGS:
            text = text.replace(tag, " ")
        yield text
