"""All cases, by name."""

from tests.conformance import (
    cases_bodies,
    cases_chunks,
    cases_connection,
    cases_endings,
    cases_fields,
    cases_forward,
    cases_host,
    cases_identity,
    cases_interim,
    cases_length,
    cases_lines,
    cases_response,
    cases_upgrade,
)
from tests.conformance.model import Case

_MODULES = (
    cases_lines,
    cases_host,
    cases_fields,
    cases_length,
    cases_chunks,
    cases_response,
    cases_bodies,
    cases_interim,
    cases_upgrade,
    cases_forward,
    cases_identity,
    cases_connection,
    cases_endings,
)

CASES: tuple[Case, ...] = tuple(case for module in _MODULES for case in module.CASES)
