"""Names of files and folders in run folders, checkpoints, folds, sweeps, ablations and exports.

Pretraining run, in <run.dir>:
    config.yaml  metrics.jsonl  boundaries.jsonl  starts.jsonl  mlflow.json  summary.txt  report.html
    logs/  profiles/  figures/  export/  threads.json
    checkpoints/pointers.json
    checkpoints/step-00000100/  model.safetensors  config.json  optimizer.safetensors  state.json  config.yaml
                                manifest.json
Fine-tuning run, in <run.dir>:
    config.yaml  data.json  summary.json  summary.txt  report.html  logs/  export/  threads.json
    fold0/       config.yaml  metrics.jsonl  result.json  predictions.tsv  confusion.png  roc.png
    fold0/best/  best weights
    fold0/last/  checkpoints, while the fold is training
Sweep, in <sweep.dir>:
    sweep.yaml  finetune.yaml  sweep.json  summary.txt  comparison/
    trials/<task>/<setting>/finetune.yaml
    trials/<task>/<setting>/fold<k>/  a fine-tuning run, with log.txt and stopped.json
Ablation, in <ablation.dir>:
    ablation.yaml  finetune.yaml  ablation.json  report/
    arms/<arm>/pretrain.yaml  arms/<arm>/statistics.json
    arms/<arm>/lr/<lr>/                a pretraining run of the learning rate search
    arms/<arm>/seed<S>/pretrain/       a pretraining run
    arms/<arm>/seed<S>/<task>/<mode>/  a fine-tuning run
"""

# Any run folder
CONFIG = "config.yaml"
"""Configuration of the run."""
METRICS = "metrics.jsonl"
"""One JSON object per logged step, validation or epoch."""
MLFLOW = "mlflow.json"
"""MLflow run ID and tracking URI."""
MLFLOW_DATABASE = "mlflow.db"
"""MLflow's sqlite store; used without a tracking server."""
MLFLOW_ARTIFACTS = "mlartifacts"
LOGS = "logs"
"""Folder of the rank logs."""
RANK_LOG = "rank-{rank:05d}.log"
LOCK = ".lock"
THREADS = "threads.json"
"""Numbers of ranks and of CPU threads per rank of the latest launch; used again at resume."""
SUMMARY_TEXT = "summary.txt"
"""Summary of the run, also printed when it finishes."""
EXPORT = "export"
"""Best model as a Hugging Face folder."""

# Model folders and checkpoints
MODEL_CONFIG = "config.json"
WEIGHTS = "model.safetensors"
"""fp32 parameters by name."""
MODEL_CARD = "README.md"
"""Description of an exported model, in the format of the Hugging Face Hub."""
OPTIMIZER = "optimizer.safetensors"
"""Moments: `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, or `momentum_buffer.<parameter>` for Muon."""
STATE = "state.json"
"""Training state without tensors."""
MANIFEST = "manifest.json"
"""Size and SHA-256 of each file; written last, so its presence marks a complete checkpoint."""

# Pretraining runs
CHECKPOINTS = "checkpoints"
CHECKPOINT_PREFIX = "step-"
POINTERS = "pointers.json"
"""Names of the latest and the best checkpoint."""
BOUNDARIES = "boundaries.jsonl"
"""Boundaries in a held-out window, one line per validation."""
LAUNCHES = "starts.jsonl"
"""Versions and hardware, one line per launch."""
PROFILES = "profiles"
"""Folder of profiler traces."""
FIGURES = "figures"
TRAINING_FIGURE = "training.png"
BOUNDARY_FIGURE = "boundaries.png"
REPORT = "report.html"

# Fine-tuning runs
DATA = "data.json"
"""Task, fingerprint and row counts."""
SUMMARY = "summary.json"
"""Scores over all folds; written last, so its presence marks a finished run."""
RESULT = "result.json"
"""Scores of one fold; written last, so its presence marks a finished fold."""
PREDICTIONS = "predictions.tsv"
CONFUSION_FIGURE = "confusion.png"
ROC_FIGURE = "roc.png"
PRECISION_RECALL_FIGURE = "precision_recall.png"
SCATTER_FIGURE = "scatter.png"
BEST = "best"
"""Folder of a fold's best weights."""
LAST = "last"
"""Folder of a fold's checkpoints, removed when the fold finishes."""

# Sweeps and comparisons
SWEEP_CONFIG = "sweep.yaml"
FINETUNE_CONFIG = "finetune.yaml"
"""Base configuration of a sweep or an ablation; in a setting's folder, the configuration of that setting."""
SWEEP_REPORT = "sweep.json"
TRIALS = "trials"
TRIAL_LOG = "log.txt"
TRIAL_STOP = "stopped.json"
"""Present if a trial was stopped early."""
COMPARISON = "comparison"
COMPARISON_REPORT = "results.md"
COMPARISON_TABLE = "results.csv"
COMPARISON_FIGURE = "results.png"

# Ablations
ABLATION_CONFIG = "ablation.yaml"
PRETRAIN_CONFIG = "pretrain.yaml"
"""Configuration of an arm after sizing, without seed and learning rate."""
LR_SEARCH = "lr"
"""Folder of the learning rate search of an arm."""
ABLATION_RECORD = "ablation.json"
ARMS = "arms"
PRETRAINING = "pretrain"
"""Folder of the pretraining run of an arm and seed."""
STATISTICS = "statistics.json"
"""Statistics of the boundaries of an arm."""
ABLATION_REPORT = "report"
"""Folder of the report."""


def fold_name(fold: int | str) -> str:
    """Name of the folder of a fold; for `*`, a glob pattern that matches the folders of all folds."""
    return f"fold{fold}"


def seed_name(seed: int | str) -> str:
    """Name of the folder of a seed of an arm."""
    return f"seed{seed}"


FOLD_METRICS = f"{fold_name('*')}/{METRICS}"
"""Glob of the metrics files of all folds of a run; no match means that training has not started."""
FOLD_RESULTS = f"{fold_name('*')}/{RESULT}"
"""Glob of the results of all finished folds of a run."""
