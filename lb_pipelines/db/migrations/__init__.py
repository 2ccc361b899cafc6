"""Alembic's scripts. Each revision is a pair: the Python file names it, its .sql holds the DDL."""
