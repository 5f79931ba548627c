"""Genome browser: a local web server and page with igv.js, the tracks of models and an annotation."""
