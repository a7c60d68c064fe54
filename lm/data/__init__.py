"""From text to batches: documents, tokens, records, batch = f(seed, step)."""
