"""verl 0.7.1 on prompts that promptgps selects.

    make serve
    PROMPTGPS_URL=http://127.0.0.1:8000 python examples/verl_curriculum.py

It prints the command that trains, which wants GPUs and a model, and then takes three steps without
either: through verl's own data set and loader, with replies that are right by chance.
"""

from uuid import uuid4

import numpy
import torch
from datasets import Dataset
from hydra import compose, initialize_config_module
from promptgps_client import PromptGPS
from torchdata.stateful_dataloader import StatefulDataLoader
from verl import DataProto
from verl.trainer.main_ppo import create_rl_dataset, create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

sums = {f"{left}+{right}": left + right for left in range(10) for right in range(10)}
rows = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{key}? End with ####, then the sum."}],
        "reward_model": {"ground_truth": str(answer)},
        "extra_info": {"index": key},
    }
    for key, answer in sums.items()
]
for name, part in {"train": rows, "val": rows[:10]}.items():
    Dataset.from_list(part).to_parquet(f"{name}.parquet")
with PromptGPS() as gps:
    gps.create_pool("sums-of-digits")
    gps.add_prompts("sums-of-digits", keys=list(sums), texts=list(sums))
    gps.create_run(name="verl-0.7-example", pool="sums-of-digits", rollouts_per_prompt=4)

options = [
    "data.train_files=train.parquet",
    "data.val_files=val.parquet",
    "data.train_batch_size=16",
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.n=4",
    "trainer.default_local_dir=verl-output",
    "data.sampler.class_path=pkg://promptgps_client.adapters.verl_curriculum",
    "data.sampler.class_name=PromptGPSSampler",
    "data.dataloader_num_workers=0",
    "+data.promptgps.run=verl-0.7-example",
    "+data.promptgps.spool=verl-output/promptgps",
    "+data.promptgps.rollouts=4",
]
print("python -m verl.trainer.main_ppo actor_rollout_ref.model.path=…", *options)

with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", [*options, "data.filter_overlong_prompts=false"])
dataset = create_rl_dataset(config.data.train_files, config.data, None, None)
sampler = create_rl_sampler(config.data, dataset)
loader = StatefulDataLoader(
    dataset, batch_size=16, sampler=sampler, collate_fn=collate_fn, drop_last=True
)
for _, rows in zip(range(3), loader, strict=False):
    batch = DataProto.from_single_dict(rows)
    batch.non_tensor_batch["uid"] = numpy.array([str(uuid4()) for _ in range(16)], dtype=object)
    batch = batch.repeat(4, interleave=True)
    batch.batch["token_level_scores"] = (torch.rand(64, 1) < 0.3).float()
    sampler.update(batch)
