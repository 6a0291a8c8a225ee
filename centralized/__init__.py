"""The runner without exchange: one model on the pool, or one model per client."""
