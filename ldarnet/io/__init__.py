"""File handling: atomic writes, locks, caches, downloads, retries, remote storage. Independent of genomics."""
