"""Faster operations with equal results: packed attention, fused LoRA, fast dropout, compiled layers."""
