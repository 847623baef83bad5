"""What a network costs: parameters, multiply-adds, latency, memory, and what its paper prints."""
