"""What tests share: small networks and images, derivatives, configurations and records of runs."""
