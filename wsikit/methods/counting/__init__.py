"""Counts to cells: learns counts, points and masks from nothing but the number of cells in each image."""
