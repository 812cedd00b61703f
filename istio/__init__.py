"""Istio: xDS, certificates, workloads, policies, the waypoint and the pod sidecar belong here."""
