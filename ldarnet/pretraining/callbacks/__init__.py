"""Hooks of the training loop, one file each: every module in this folder is imported and registers its callback."""
