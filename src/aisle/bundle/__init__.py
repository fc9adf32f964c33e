"""Bundles: an exported encoder that runs on ONNX Runtime, without torch."""
