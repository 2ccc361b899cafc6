"""The Dagster layer, one file a concept; `build.build_defs` is the one place that composes it.

Nothing here computes or writes a board: assets call `materialize`, jobs call `db`, and what is
said here is when, for whom, and what a person sees of it. Every module gives factories or plain
definitions; none touches a database when imported.
"""
