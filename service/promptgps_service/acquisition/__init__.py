"""Maths of choosing a batch.

From predictions and what has been drawn lately to the rows to roll out next.

The way through the package: ``randomness`` (every coin is a hash of seed and prompt), ``reuse``
(who may be drawn now), ``utility`` (what a prompt is worth), ``quotas`` (how many of each group),
``diversity`` (spread), ``choose`` (the batch), ``presets`` (strategies by name).
"""
