"""Processes, compilation of a configuration and the pipeline of a request belong here."""
