"""HTML report of a pretraining run."""
