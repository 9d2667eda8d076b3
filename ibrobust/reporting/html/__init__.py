"""A study as one HTML file that opens without internet."""
