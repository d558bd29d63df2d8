"""The log: stores, topics, partitions, segments, batches, records."""
