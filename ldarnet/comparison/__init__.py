"""Comparison of finished folds with each other and with published results: tables, tests, a figure."""
