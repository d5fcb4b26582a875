"""Makes time pass by what engines do in the process that a run starts to time models, as in the run itself."""

import counted_time

counted_time.count_passes(counted_time.CountedTime())
