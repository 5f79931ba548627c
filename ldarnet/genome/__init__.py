"""Read sequence files (FASTA, 2bit) and interval files (BED, GFF3), and compute with intervals."""
