"""The runtime environment: Keras's backend, devices, replicas and determinism."""
