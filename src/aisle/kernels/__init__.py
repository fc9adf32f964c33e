"""Faster operations with the same results: packed attention, fused LoRA, dropout, compiled layers."""
