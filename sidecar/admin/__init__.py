"""The operator's doors, served by the control process: admin, metrics and readiness."""
