"""Half precision: networks that compute in it, what a device can do, and how near activations come to its limits."""
