"""AutoAttack with the signature that RobustBench calls, resumable."""
