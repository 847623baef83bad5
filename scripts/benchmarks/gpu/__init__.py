"""What scripts/run_gpu.py runs on a GPU: compiling, tests, figures, compute-sanitizer, profiles."""
