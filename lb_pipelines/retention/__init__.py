"""The work of retention without Dagster: plan, sweep, restore, hold, purge, export, erase.

Each verb has its module and works on one institution: it plans (what `dry_run` shows), then carries
out, in transactions small enough to be killed between. Arithmetic and policies are pure and lie in
`core.retention`; SQL lies in `db`. Today is an argument everywhere: the institution's own day.
"""
