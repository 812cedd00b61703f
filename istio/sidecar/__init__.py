"""The pod sidecar: what captures an application's connections and takes them into the mesh."""
