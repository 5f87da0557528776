"""A payment that is made once in each period: by a schedule, and as a workflow that continues as new."""
