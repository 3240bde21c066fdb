"""The promptgps client: needs httpx, pydantic and stamina, and imports neither torch nor numpy."""

from promptgps_client.async_client import AsyncPromptGPS
from promptgps_client.client import PromptGPS
from promptgps_client.errors import (
    BadAnswer,
    Conflict,
    ConnectFailed,
    ExistingRun,
    Forbidden,
    InvalidRequest,
    NoAnswer,
    NotFound,
    OutcomesRefused,
    PromptGPSError,
    ServerFault,
    TimedOut,
    TooBusy,
    TooLarge,
    Unauthenticated,
    UnreadableAnswer,
)
from promptgps_client.selector import Draw, DrawnBatch, Selector, SpoolInUse
from promptgps_client.transport import Options
from promptgps_client.wire import (
    Batch,
    Budget,
    Calibration,
    Difficulty,
    Draws,
    Embedding,
    OutcomesSoFar,
    OutcomesStored,
    Pool,
    Pools,
    PoolShare,
    Problem,
    ProblemFault,
    Progress,
    PromptsAdded,
    Ready,
    Reward,
    Run,
    RunMetrics,
    Runs,
    Selection,
    Subset,
)

__all__ = [
    "AsyncPromptGPS", "BadAnswer", "Batch", "Budget", "Calibration", "Conflict", "ConnectFailed",
    "Difficulty", "Draw", "DrawnBatch", "Draws", "Embedding", "ExistingRun", "Forbidden",
    "InvalidRequest", "NoAnswer", "NotFound", "Options", "OutcomesRefused", "OutcomesSoFar",
    "OutcomesStored", "Pool", "PoolShare", "Pools", "Problem", "ProblemFault", "Progress", "PromptGPS",
    "PromptGPSError", "PromptsAdded", "Ready", "Reward", "Run", "RunMetrics", "Runs", "Selection",
    "Selector", "ServerFault", "SpoolInUse", "Subset", "TimedOut", "TooBusy", "TooLarge",
    "Unauthenticated", "UnreadableAnswer",
]  # fmt: skip
