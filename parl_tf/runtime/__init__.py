"""What the package runs on: Keras's backend, devices, replicas, determinism."""
