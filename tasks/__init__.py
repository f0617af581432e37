"""One thin Prefect task per stage: cache key, retry policy, one call into the core."""
