"""`python -m lb_pipelines.cli`: the same as `lb`, where no script is installed."""

from lb_pipelines.cli.main import app

if __name__ == "__main__":
    app(prog_name="lb")
