"""Fine-tuning on a task: cross-validation folds, evaluation, results and baselines."""
