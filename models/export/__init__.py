"""Networks as programs that run without this project: ONNX, torch.export, AOTInductor."""
