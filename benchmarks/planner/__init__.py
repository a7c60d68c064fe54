"""The planner against trainers that answer at once: recorded runs, synthetic landscapes."""
