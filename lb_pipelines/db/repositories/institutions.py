"""Institutions and their terms, as the domain's own types."""

from __future__ import annotations

from collections.abc import Collection

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import Term
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.errors import UnknownInstitution


def find(connection: Connection, institution_id: str) -> Institution:
    """The institution with this id, whatever its status; raises `UnknownInstitution`."""
    row = queries.institutions.find(connection, id=institution_id)
    if row is None:
        raise UnknownInstitution(institution_id)
    return Institution(*row)


def find_active(connection: Connection, institution_id: str) -> Institution:
    """The institution, active and with settings that can be used; else the typed error why not."""
    return find(connection, institution_id).validate()


def every(connection: Connection) -> list[Institution]:
    """All institutions by id, inactive ones included, settings not yet validated."""
    return [Institution(*row) for row in queries.institutions.all_institutions(connection)]


def active(connection: Connection) -> list[Institution]:
    """The active institutions by id, settings not yet validated."""
    return [institution for institution in every(connection) if institution.status == "ACTIVE"]


def sizes(connection: Connection, ids: Collection[str]) -> dict[str, int]:
    """How many students each of these institutions has; who is not there is left out."""
    return dict(queries.institutions.sizes(connection, ids=list(ids)))


def terms(connection: Connection, institution: Institution) -> list[Term]:
    """The institution's terms by first day."""
    rows = queries.institutions.terms(connection, institution_key=institution.key)
    return [Term(*row) for row in rows]
