"""Measures, runs and evaluation over BEIR folders."""
