"""Where the workload's certificate comes from: Istio's CA, a SPIFFE agent, or files."""
