"""`Selector`, the loop of a trainer that never stops because of the service.

- `selector.py`: the loop, next batch, report, checkpoint
- the run: `launch.py`, whether it is a training's own; `prompts.py`, which of its prompts are
- draws: `asking.py`, the service with a deadline, or `fallback.py`, local ─► `batch.py`
- outcomes: `outcomes.py`, reports as records ─► `spool.py`, on disk ─► `courier.py`, to the service
"""

from promptgps_client.selector.batch import Draw, DrawnBatch
from promptgps_client.selector.launch import Course
from promptgps_client.selector.lock import SpoolInUse
from promptgps_client.selector.selector import Selector

__all__ = ["Course", "Draw", "DrawnBatch", "Selector", "SpoolInUse"]
