"""Copies of a model in bfloat16, and how far they are believed."""
