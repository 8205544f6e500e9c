"""All cases, by name."""

from tests.conformance import (
    cases_chunks,
    cases_connection,
    cases_fields,
    cases_forward,
    cases_host,
    cases_interim,
    cases_length,
    cases_lines,
    cases_response,
)
from tests.conformance.model import Case

_MODULES = (
    cases_lines,
    cases_host,
    cases_fields,
    cases_length,
    cases_chunks,
    cases_response,
    cases_interim,
    cases_forward,
    cases_connection,
)

CASES: tuple[Case, ...] = tuple(case for module in _MODULES for case in module.CASES)
