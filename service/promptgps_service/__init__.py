"""promptgps service: prompt selection beside an RL post-training job.

Importing this package is cheap: nothing heavy (torch, sqlalchemy) is loaded before it is used.
"""

__version__ = "0.1.0"
