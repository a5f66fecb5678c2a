"""The machine: devices, threads, memory, processes."""
