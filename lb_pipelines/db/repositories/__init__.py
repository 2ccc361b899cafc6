"""One module per table family: the only places that run SQL on rows.

Every function takes an open connection first; transactions belong to the caller.
"""
