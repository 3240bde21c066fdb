"""Python's wall clock, shifted by as many seconds as a file says.

For machines without libfaketime.
"""

import os
import time
from pathlib import Path

_file = Path(os.environ["PROMPTGPS_TEST_CLOCK"])
_time = time.time
time.time = lambda: _time() + float(_file.read_text() or 0)
