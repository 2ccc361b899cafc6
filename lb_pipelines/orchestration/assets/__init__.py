"""The assets, one file a family, composed and executed by `leaderboards`.

A family says what its assets are (description, columns, what a person sees of a day) and which
verb of `materialize` makes them. In which order the work is done, how it is recorded and what a
failure means is the same for all and lies in `leaderboards` alone.
"""
