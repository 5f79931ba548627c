"""Comparison of finished folds with each other and with published results: tables, significance tests and a figure."""
