"""verl 0.9 (V1 trainer) on prompts that promptgps selects.

    make serve
    PROMPTGPS_URL=http://127.0.0.1:8000 python examples/verl_grpo.py

It prints the command that trains, which wants GPUs and a model, and then takes three steps without
either: through verl's own data set, queue and replay buffer, with replies that are right by chance.
"""

from uuid import uuid4

import ray
import torch
import transfer_queue as tq
from datasets import Dataset
from hydra import compose, initialize_config_module
from promptgps_client import PromptGPS
from torch.utils.data import DataLoader
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

sums = {f"{number // 10}+{number % 10}": number // 10 + number % 10 for number in range(100)}
rows = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{key}? End with ####, then the sum."}],
        "reward_model": {"ground_truth": str(answer)},
        "extra_info": {"index": key},
    }
    for key, answer in sums.items()
]
Dataset.from_list(rows).to_parquet("train.parquet")
Dataset.from_list(rows[:10]).to_parquet("val.parquet")
with PromptGPS() as gps:
    gps.create_pool("sums-of-digits")
    gps.add_prompts("sums-of-digits", keys=list(sums), texts=list(sums))
    gps.create_run(name="verl-example", pool="sums-of-digits", rollouts_per_prompt=4)

adapter = "promptgps_client.adapters.verl"
options = [
    "data.train_files=train.parquet",
    "data.val_files=val.parquet",
    "data.train_batch_size=16",
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.n=4",
    "trainer.default_local_dir=verl-output",
    f"data.custom_cls.path=pkg://{adapter}",
    "data.custom_cls.name=PromptGPSDataset",
    "data.dataloader_num_workers=0",
    f"trainer.v1.sampler.custom_sampler.path=pkg://{adapter}",
    "+data.promptgps.run=verl-example",
    "trainer.v1.sampler.custom_sampler.name=PromptGPSReplayBuffer",
    "+data.promptgps.rollouts=4",
    f"trainer.checkpoint_callback_class={adapter}.PromptGPSCheckpoint",
    "+data.promptgps.spool=verl-output/promptgps",
]
print("python -m verl.trainer.main_ppo actor_rollout_ref.model.path=…", *options)
ray.init(num_cpus=8, include_dashboard=False)
tq.init()
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", [*options, "data.filter_overlong_prompts=false"])
buffer = PPOTrainerSync(config).replay_buffer
dataset = create_rl_dataset(config.data.train_files, config.data, None, None)
for step, batch in zip(
    range(1, 4), DataLoader(dataset, batch_size=16, collate_fn=collate_fn), strict=False
):
    groups = {str(uuid4()): info for info in batch["extra_info"]}
    keys = [f"{uid}_{rollout}_0" for uid in groups for rollout in range(4)]
    told = [
        {"extra_info": groups[key.split("_")[0]], "rm_scores": (torch.rand(1) < 0.3).float()}
        for key in keys
    ]
    tq.kv_batch_put(
        keys, "train", list_of_dict_to_tensordict(told), [{"global_steps": step}] * len(keys)
    )
    tq.kv_batch_put(
        list(groups),
        "train",
        tags=[{"is_prompt": True, "status": "finished", "global_steps": step}] * 16,
    )
    buffer.sample(step, "train", batch_size=16)
