"""What comes from outside, read within bounds.

Gzip is read in pieces, JSON list by list, and values are shown at bounded length.

Nothing here makes more of a body at a time than a slice of it, so that neither the interpreter's
lock nor memory is held for long, whatever was sent.
"""
