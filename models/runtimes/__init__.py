"""Networks that are files of their own, ONNX, and run by ONNX Runtime or OpenVINO instead of PyTorch."""
