"""Files, storage and downloads: complete-or-absent files, retries, remote storage. Knows nothing of genomes."""
