"""Files of tensors, of torch and of safetensors: their archive, their checksums, what else a file may be."""
