"""Copies of a model in bfloat16, and the checks that decide when their results are used."""
