"""verl 0.9 (V1 trainer) on prompts that promptgps selects.

    make serve
    PROMPTGPS_URL=http://127.0.0.1:8000 python examples/verl_grpo.py

It prints the command that trains, which wants GPUs and a model, and then takes three steps of it without either: through
verl's own data set, queue and replay buffer, with replies that are right by chance.
"""

import random
from uuid import uuid4

import ray
import torch
import transfer_queue
from datasets import Dataset
from hydra import compose, initialize_config_module
from promptgps_client import PromptGPS
from torch.utils.data import DataLoader
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

sums = {f"{left}+{right}": left + right for left in range(10) for right in range(10)}
rows = [
    {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": f"What is {key}? End with #### and it."}],
     "reward_model": {"ground_truth": str(answer)}, "extra_info": {"index": key}}
    for key, answer in sums.items()
]  # fmt: skip
Dataset.from_list(rows).to_parquet("train.parquet")
Dataset.from_list(rows[:10]).to_parquet("val.parquet")
with PromptGPS() as gps:
    gps.create_pool("sums-of-digits")
    gps.add_prompts("sums-of-digits", keys=list(sums), texts=list(sums))
    gps.create_run(name="verl-example", pool="sums-of-digits", rollouts_per_prompt=4)

options = [
    "data.train_files=train.parquet",
    "data.val_files=val.parquet",
    "data.train_batch_size=16",
    "data.dataloader_num_workers=0",
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.n=4",
    "trainer.default_local_dir=verl-output",
    "data.custom_cls.path=pkg://promptgps_client.adapters.verl",
    "data.custom_cls.name=PromptGPSDataset",
    "+data.promptgps.run=verl-example",
    "+data.promptgps.spool=verl-output/promptgps",
    "+data.promptgps.rollouts=4",
    "trainer.v1.sampler.custom_sampler.path=pkg://promptgps_client.adapters.verl",
    "trainer.v1.sampler.custom_sampler.name=PromptGPSReplayBuffer",
    "trainer.checkpoint_callback_class=promptgps_client.adapters.verl.PromptGPSCheckpoint",
]
print("python -m verl.trainer.main_ppo actor_rollout_ref.model.path=…", *options)

ray.init(num_cpus=8, include_dashboard=False)
transfer_queue.init()
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", [*options, "data.filter_overlong_prompts=false"])
buffer = PPOTrainerSync(config).replay_buffer
dataset = create_rl_dataset(config.data.train_files, config.data, None, None)
for step, batch in zip(range(1, 4), DataLoader(dataset, batch_size=16, collate_fn=collate_fn), strict=False):
    groups = {str(uuid4()): info for info in batch["extra_info"]}
    keys = [f"{uid}_{rollout}_0" for uid in groups for rollout in range(4)]
    replies = [(key.split("_")[0], float(random.random() < 0.3)) for key in keys]
    told = [{"extra_info": groups[uid], "rm_scores": torch.tensor([reward])} for uid, reward in replies]
    transfer_queue.kv_batch_put(keys, "train", list_of_dict_to_tensordict(told), [{"global_steps": step}] * len(keys))
    tags = [{"is_prompt": True, "status": "finished", "global_steps": step}] * len(groups)
    transfer_queue.kv_batch_put(list(groups), "train", tags=tags)
    trained, _ = buffer.sample(step, "train", batch_size=16)
    transfer_queue.kv_clear(trained.keys, "train")
dataset.seam.close()
