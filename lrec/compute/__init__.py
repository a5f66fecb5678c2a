"""What the machine brings: devices, threads, memory, processes."""
