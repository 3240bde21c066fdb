"""A loop of one's own on prompts that promptgps selects.

A small network learns sums by policy gradient.

    make serve
    PROMPTGPS_URL=http://127.0.0.1:8000 python examples/pytorch_loop.py

Killed and started again, it goes on from its last checkpoint, and the run with it.
"""

from pathlib import Path

import torch
from promptgps_client import PromptGPS, Selector
from promptgps_client.adapters.seam import DRAW_ID
from promptgps_client.adapters.torch import DrawnRows, DrawSampler
from torch.utils.data import DataLoader

STEPS = 40
BATCH = 16
ROLLOUTS = 8
EVERY = 10
RUN = "pytorch-example"
CHECKPOINT = Path("pytorch-output/checkpoint.pt")
CHECKPOINT.parent.mkdir(exist_ok=True)

rows = [{"left": left, "right": right} for left in range(10) for right in range(10)]
keys = [f"{row['left']}+{row['right']}" for row in rows]
policy = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 19))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)

gps = PromptGPS()
gps.create_pool("small-sums")
gps.add_prompts("small-sums", keys=keys, texts=[f"What is {key}?" for key in keys])
gps.create_run(name=RUN, pool="small-sums", rollouts_per_prompt=ROLLOUTS)

with Selector(
    gps, run=RUN, batch_size=BATCH, prompts=keys, spool=CHECKPOINT.parent / "spool"
) as selector:
    first = 0
    if CHECKPOINT.exists():
        state = torch.load(CHECKPOINT)
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        selector.load_state_dict(state["selector"])
        first = state["step"]
        gps.restore(RUN, f"step-{first}")
    loader = DataLoader(DrawnRows(rows), batch_sampler=DrawSampler(selector, first))
    for step, batch in zip(range(first, STEPS), loader, strict=False):
        digits = (
            torch.nn.functional.one_hot(torch.stack([batch["left"], batch["right"]], 1), 10)
            .float()
            .flatten(1)
        )
        answers = torch.distributions.Categorical(logits=policy(digits))
        said = answers.sample((ROLLOUTS,))
        reward = (said == batch["left"] + batch["right"]).float()
        selector.report(
            batch[DRAW_ID], successes=reward.sum(0), trials=[ROLLOUTS] * BATCH, policy_version=step
        )
        loss = -((reward - reward.mean(0)) * answers.log_prob(said)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % EVERY == 0:
            selector.flush()
            gps.snapshot(RUN, f"step-{step + 1}")
            state = {
                "policy": policy.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            torch.save(state | {"selector": selector.state_dict()}, CHECKPOINT)
            print(f"step {step + 1}: {reward.mean():.0%} solved, {selector.counters}")
