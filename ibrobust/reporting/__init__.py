"""Reporting: from results and records to tables, figures, JSON and HTML."""
