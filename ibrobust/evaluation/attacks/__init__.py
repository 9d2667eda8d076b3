"""Attacks by name: from their options to a record for every image."""
