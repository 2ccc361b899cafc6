"""Who is told of a run that failed, and how: a webhook, e-mail, or both, by the environment alone.

`report` says what is told, `delivery` how it gets there, `sensor` when, once, and what becomes of
it where a receiver is out of reach.
"""
