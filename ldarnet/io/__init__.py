"""File handling that does not depend on genomics: atomic writes, locks, caches, downloads, retries, remote storage."""
