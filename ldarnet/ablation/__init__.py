"""Comparison of models at equal training cost."""
