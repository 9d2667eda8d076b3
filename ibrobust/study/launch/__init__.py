"""Launchers, which run the cells of a study on this machine or on Slurm."""
