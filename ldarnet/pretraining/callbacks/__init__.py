"""Callbacks of the training loop; every module in this folder is imported and registers its callbacks."""
