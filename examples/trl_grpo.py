"""GRPO with TRL on prompts that promptgps selects.

    make serve
    PROMPTGPS_URL=http://127.0.0.1:8000 python examples/trl_grpo.py [model]

Without a model it trains a tiny random one, which runs anywhere and learns nothing.
"""

import sys

import torch
from datasets import Dataset
from promptgps_client import PromptGPS
from promptgps_client.adapters.trl import PromptSelection
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from trl import GRPOConfig, GRPOTrainer


def correct(completions, answer, **_):
    """One for each completion that says the answer and nothing else."""
    return [
        float(completion.strip() == right)
        for completion, right in zip(completions, answer, strict=True)
    ]


def tiny():
    """A random model of two layers, and a tokenizer of single characters."""
    letters = {letter: number for number, letter in enumerate(["<pad>", "<eos>", *"0123456789+= "])}
    characters = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>"
    )
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }

    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(letters), num_key_value_heads=2, **size)
    ), tokenizer


sums = [(left, right) for left in range(10) for right in range(10)]
dataset = Dataset.from_dict(
    {
        "key": [f"{left}+{right}" for left, right in sums],
        "prompt": [f"{left}+{right}=" for left, right in sums],
        "answer": [str(left + right) for left, right in sums],
    }
)
config = GRPOConfig(
    output_dir="trl-output",
    max_steps=6,
    save_steps=2,
    logging_steps=1,
    num_generations=4,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_completion_length=2,
    report_to="none",
    bf16=torch.cuda.is_available(),
    use_cpu=not torch.cuda.is_available(),
)

with PromptGPS() as gps:
    gps.create_pool("additions")
    gps.add_prompts("additions", keys=dataset["key"], texts=dataset["prompt"])
    gps.create_run(name="trl-example", pool="additions", rollouts_per_prompt=config.num_generations)

name = sys.argv[1] if len(sys.argv) > 1 else None
model, tokenizer = (
    (AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name))
    if name
    else tiny()
)
selection = PromptSelection(dataset, config, run="trl-example", wait_seconds=5)
trainer = GRPOTrainer(
    model,
    selection.reported(correct),
    config,
    selection.stream,
    processing_class=tokenizer,
    callbacks=[selection],
)
trainer.train()
