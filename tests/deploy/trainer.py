"""A trainer in a container of its own.

Prints a line of JSON for each step acknowledged, then the run as learned.

Run as `python - FIRST LAST`: steps FIRST to LAST - 1 of one run. A step done before must come out
the same again.
"""

from __future__ import annotations

import json
import sys
import time

from promptgps_client import PromptGPS

PROMPTS = 200
BATCH = 8
ROLLOUTS = 8
LEARN_SECONDS = 120.0


def main(first: int, last: int) -> None:
    """Make what is not there yet, then train."""
    with PromptGPS(retry_seconds=180.0, attempts=1000) as gps:  # PROMPTGPS_URL, PROMPTGPS_API_KEY
        gps.create_pool("pool")
        gps.add_prompts(
            "pool",
            keys=[str(n) for n in range(PROMPTS)],
            texts=[f"{n} + {n * n}" for n in range(PROMPTS)],
        )
        gps.create_run(name="run", pool="pool", rollouts_per_prompt=ROLLOUTS)
        for step in range(first, last):
            draws = gps.select_batch(
                run="run", sequence=step, batch_size=BATCH, policy_version=step
            ).draws
            successes = [int(key) % (ROLLOUTS + 1) for key in draws.prompt]
            gps.report_groups(
                run="run",
                draw_id=draws.draw_id,
                successes=successes,
                trials=[ROLLOUTS] * BATCH,
                policy_version=step,
            )
            say({"step": step, "draws": draws.draw_id, "prompts": draws.prompt})
        deadline = time.monotonic() + LEARN_SECONDS
        while (run := gps.run("run")).trained_through < run.log_position:
            if time.monotonic() > deadline:
                sys.exit(f"not learned within {LEARN_SECONDS:g} s: {run}")
            time.sleep(0.2)
        say({"log_position": run.log_position, "model_version": run.model_version})


def say(line: object) -> None:
    """One line of JSON, at once."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
