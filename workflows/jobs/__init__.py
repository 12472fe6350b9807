"""Batch systems: which shard a task is, and scripts for Slurm."""
