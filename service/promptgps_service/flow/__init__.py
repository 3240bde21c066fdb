"""Use cases, one verb a file; they know the store and the maths, neither HTTP nor SQL.

In: ``register`` (pools and prompts), ``open_run``, ``record`` (outcomes). Learning: ``trainer``,
whose work is done in turns by the ``device_queue``. Out: ``select`` (the next batch), ``predict``.
What they share: ``context``, ``run_state`` (one run's readers of the log), ``run_settings``,
``feature_space`` (vectors of the pools).
"""
