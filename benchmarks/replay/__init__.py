"""Replay of recorded histories, in process: how well predictors predict, and what they choose."""
