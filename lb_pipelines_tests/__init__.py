"""The tests: one module a concern, on a real PostgreSQL."""
