"""`lb`: what a person types. Parses, calls, prints; the work is in the rooms.

Exit codes: 0 done; 1 refused, with the thing and the remedy on stderr; 2 wrong usage; 3 done, but
something was left out (refused rows, exports out of reach). With --json one object goes to stdout,
also for an error. A verb that moves or destroys rows shows what it would do, until --execute.

One file a family of verbs, put together in `main`; `telling` is how all of them print and refuse.
"""

from lb_pipelines.cli.main import app as app
