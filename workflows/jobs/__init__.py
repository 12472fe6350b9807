"""Batch systems tell a task its shard, and Slurm gets scripts that are sized from the plan."""
