"""Use cases, one verb a file; they know the store and the maths, neither HTTP nor SQL.

In: ``register`` (pools and prompts), ``open_run``, ``record`` (outcomes). Learning: ``trainer`` on the ``lane``.
Out: ``select`` (the next batch), ``predict``, ``describe`` (runs and their metrics). What they share: ``context``,
``run_state`` (one run's readers of the log), ``run_settings``, ``feature_space`` (vectors of the pools).
"""
