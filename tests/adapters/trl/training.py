"""A real GRPO training of a tiny random model on sums.

As a program it takes its options as JSON and may be killed.

Its second reward function writes what the trainer hands to rewards into a trace, a line for each
call, and then kills what a test wants to be killed at that step. By then the first one is reported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from promptgps_client.adapters.seam import DRAW_ID
from promptgps_client.adapters.trl import PromptSelection
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from tests.adapters.sums import KEYS, PROMPTS

DATASET = Dataset.from_dict(
    {"key": KEYS, "prompt": [f"{number}+{7 * number % 10}=" for number in range(PROMPTS)]}
)


def even(completions: list[str], **_: Any) -> list[float]:
    """Half of the random completions or so."""
    return [float(sum(map(ord, completion)) % 2) for completion in completions]


def config(folder: Path, **options: Any) -> Any:
    given = {
        "max_steps": 6,
        "save_steps": 2,
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "learning_rate": 0.01,
        "beta": 0.0,
    }
    return options.pop("kind", GRPOConfig)(output_dir=str(folder / "out"), **given | options)


def trainer(args: Any, selection: PromptSelection, rewards: list[Any], **options: Any) -> Any:
    letters = {letter: number for number, letter in enumerate(["<pad>", "<eos>", *"0123456789+="])}
    characters = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    size = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    kind = RLOOTrainer if isinstance(args, RLOOConfig) else GRPOTrainer
    return kind(
        Qwen2ForCausalLM(Qwen2Config(vocab_size=len(letters), num_key_value_heads=1, **size)),
        rewards,
        args,
        selection.stream,
        callbacks=[selection],
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>"
        ),
        **options,
    )


class Trace:
    """A reward function that only looks on."""

    def __init__(self, path: Path, kill: dict[str, int]) -> None:
        self._path = path
        self._kill = kill

    def __call__(
        self, prompts: list[str], completions: list[str], trainer_state: Any, **columns: Any
    ) -> list[None]:
        line = {
            "step": trainer_state.global_step,
            "rank": int(os.environ.get("RANK", "0")),
            "prompt": prompts,
            "draw_id": columns.get(DRAW_ID),
            "key": columns["key"],
            "reward": even(completions),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if (process := self._kill.get(str(trainer_state.global_step))) is not None:
            os.kill(process or os.getpid(), signal.SIGKILL)
        return [None] * len(prompts)


def read(trace: Path) -> list[dict[str, Any]]:
    """The lines of a trace."""
    return [json.loads(line) for line in trace.read_text().splitlines()]


def main(
    folder: Path,
    run: str,
    service: str,
    resume: bool,
    kill: dict[str, int],
    options: dict[str, Any],
) -> None:
    """Train; `kill` says which process (0: this one) to kill with -9 at which step."""
    args = config(folder, **options)
    # ranks alone would not agree
    settings = {"deadline": 2.0, "wait_seconds": 1.0, "seed": args.process_index}
    selection = PromptSelection(DATASET, args, run=run, service=service, **settings)
    rewards = [selection.reported(even), Trace(folder / "trace.jsonl", kill)]
    trainer(args, selection, rewards).train(resume_from_checkpoint=resume)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    main(Path(told.pop("folder")), **told)
