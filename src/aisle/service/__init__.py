"""Answer searches over HTTP: requests and responses, the engine that answers them, and live swaps."""
