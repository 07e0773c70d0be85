"""Licences as CycloneDX writes them: by the identifier of the SPDX list where there is one, else by name."""

from __future__ import annotations

from typing import Any

_KNOWN = """
0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause
BSL-1.0 CC-BY-3.0 CC-BY-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0
CDLA-Permissive-2.0 EPL-2.0 GPL-2.0-only GPL-3.0-only GPL-3.0-or-later ISC LGPL-3.0-only MIT MIT-0
MPL-2.0 ODbL-1.0 OFL-1.1 PDDL-1.0 PostgreSQL Unlicense Zlib
"""
"""Identifiers of the SPDX list that models and data sets carry."""

_SPDX = {name.lower(): name for name in _KNOWN.split()}


def licences(licence: str | None) -> dict[str, Any]:
    """The field ``licenses`` of a component; nothing when no licence is known."""
    if licence is None:
        return {}
    known = _SPDX.get(licence.lower())
    return {"licenses": [{"license": {"id": known} if known else {"name": licence}}]}
