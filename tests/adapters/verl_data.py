"""Sums as verl reads them: Parquet rows with a chat, and a tokenizer for it."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.adapters.sums import TEXTS


def rows(folder: Path, name: str, keys: list[str]) -> Path:
    path = folder / f"{name}.parquet"
    if not path.exists():
        Dataset.from_list(
            [
                {
                    "data_source": "sums",
                    "prompt": [{"role": "user", "content": text}],
                    "reward_model": {"ground_truth": "0"},
                    "extra_info": {"index": key},
                }
                for key, text in zip(keys, TEXTS, strict=False)
            ]
        ).to_parquet(path)
    return path


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", chat_template=template
    )
