"""Nuclei from partial points."""
