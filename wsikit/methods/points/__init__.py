"""Nuclei from points: learns from some or all of the points of an image where its nuclei lie, and their outlines."""
