"""Prompts out of files: which column is what, what its values mean, and what may not be.

``worker`` is a process of its own that opens a file and sends raw columns (``tables``: Parquet and
Arrow, ``lines``: JSON Lines and CSV; ``mapping`` and ``values`` say what they read). ``reading`` is
the service's side of it: it starts the worker, bounds it, and checks what it sends (``checks``) by
the wire's own types. ``columns`` are prompts in JSON.
"""
