"""Tracks of a model along genomes: windows, stitching, chunks, likelihoods, and files for genome browsers."""
