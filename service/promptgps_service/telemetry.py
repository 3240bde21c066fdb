"""The names of every metric."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)

REQUEST_SECONDS = Histogram(
    "promptgps_request_seconds",
    "Time to answer a request.",
    ["method", "route", "status"],
    buckets=_FAST,
)
SELECTIONS = Counter("promptgps_selections", "Selections issued; replays do not count.", ["run"])
DRAWS = Counter("promptgps_draws", "Draws issued.", ["run"])
OUTCOMES = Counter("promptgps_outcomes", "Outcomes stored.", ["run"])
LOG_POSITION = Gauge("promptgps_log_position", "Outcomes in the log.", ["run"])
MODEL_VERSION = Gauge("promptgps_model_version", "Model version served.", ["run"])
TRAINED_THROUGH = Gauge(
    "promptgps_trained_through", "Log position the served model has learned up to.", ["run"]
)
LAG = Gauge(
    "promptgps_lag", "Outcomes in the log that the served model has not learned from yet.", ["run"]
)
MODEL_AGE = Gauge(
    "promptgps_model_age_seconds", "Time since this process first served its score table.", ["run"]
)
LEASED = Gauge(
    "promptgps_leased", "1 where this process holds the run, that is, learns it.", ["run"]
)
DEVICE_JOBS = Gauge("promptgps_device_jobs", "Jobs waiting for the device.")
