"""A study as one HTML file that needs no network."""
