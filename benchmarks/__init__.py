"""Benchmarks of promptgps: latency, replay of real histories, and a small real RL run."""
