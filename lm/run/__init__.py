"""One run or a pack of runs: program, loop, checkpoints, records, stopping."""
