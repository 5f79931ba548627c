"""Enrichment of boundaries at annotated features, with null models."""
