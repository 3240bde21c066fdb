"""The HTTP edge: parse, call one use case, render.

``problems`` is the only table from error to status.
"""
