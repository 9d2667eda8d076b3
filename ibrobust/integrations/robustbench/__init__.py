"""RobustBench: its benchmark, its images, and what has to be true for it to be imported."""
