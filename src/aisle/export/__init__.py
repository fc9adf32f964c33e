"""Export: write an encoder as a bundle of ONNX graphs, and measure that it gives the same embeddings."""

from aisle.extras import require_extra

require_extra("export")
