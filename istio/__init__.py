"""Istio: xDS, certificates, workload discovery and the waypoint belong here; empty as yet."""
