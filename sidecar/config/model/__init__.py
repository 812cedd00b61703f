"""The schema of the configuration file as pydantic models, one module an area."""
