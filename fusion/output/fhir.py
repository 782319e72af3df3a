"""Medications as FHIR R4: a Bundle of MedicationRequest resources (https://hl7.org/fhir/R4/medicationrequest.html).

A machine's reading is nobody's order: every request is a draft and a proposal, and no patient is named. What was not
understood stays text; confidences and checks stand in extensions. What was supplied is text in brackets and no value.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from fusion.output.units import written
from fusion.page import Field, Page, Record, lowest

CONFIDENCE = "urn:fusion:confidence"
"""Extension with the lowest confidence of an element's characters, a decimal in [0, 1]."""
CHECK = "urn:fusion:check"
"""Extension with a remark of the profile."""
_DIRECTIONS = ("form", "dose", "route", "frequency", "when", "as_needed", "duration", "text")
Json = dict[str, Any]


def medication_requests(pages: Iterable[Page]) -> str:
    """The medications of some pages as one JSON Bundle; pages without any give an empty collection."""
    requests = []
    for page in pages:
        medications = [record for record in written(page) if record.kind == "medication"]
        requests += [_request(page, record, number) for number, record in enumerate(medications, 1)]
    bundle: Json = {"resourceType": "Bundle", "type": "collection"}
    if requests:
        bundle["entry"] = [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r} for r in requests]
    return json.dumps(bundle, ensure_ascii=False, indent=1) + "\n"


def _request(page: Page, record: Record, number: int) -> Json:
    drug, strength = record.get("drug"), record.get("strength")
    checks = [{"url": CHECK, "valueString": f"{check.kind}: {check.message}"} for check in page.about(record)]
    request: Json = {
        "resourceType": "MedicationRequest",
        # The same page read again has the same ids, and no two pages share one.
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"fusion {page.image_sha256} {page.id} {number}")),
        **_extension(record.fields, checks),
        "status": "draft",
        "intent": "proposal",
        "medicationCodeableConcept": {
            **_extension([drug] if drug else []),
            "text": " ".join(field.text for field in (drug, strength) if field),
        },
        "subject": {"display": "not extracted"},
    }
    directions = [field for field in record.fields if field.name in _DIRECTIONS]
    if directions:
        request["dosageInstruction"] = [_dosage(record, directions)]
    if quantity := _quantity(record.get("quantity")):
        request["dispenseRequest"] = {"quantity": quantity}
    return request


def _dosage(record: Record, fields: Sequence[Field]) -> Json:
    """`Dosage`: the words as they stand, and beside them what was understood."""
    dosage: Json = {**_extension(fields), "text": " ".join(field.text for field in fields)}
    if repeat := _repeat(record):
        dosage["timing"] = {"repeat": repeat}
    if (as_needed := record.get("as_needed")) and as_needed.value:
        dosage["asNeededBoolean"] = True
    if route := record.get("route"):
        dosage["route"] = {"text": str(route.value.get("code", route.text))}
    if dose := _quantity(record.get("dose")):
        dosage["doseAndRate"] = [{"doseQuantity": dose}]
    return dosage


def _repeat(record: Record) -> Json:
    """`Timing.repeat`. FHIR forbids `when` beside `timeOfDay`, which is never written."""
    repeat: Json = {}
    duration, frequency, when = (record.get(name) for name in ("duration", "frequency", "when"))
    if duration and duration.value:
        value, unit = _plain(duration.value["value"]), duration.value["unit"]
        repeat["boundsDuration"] = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    if frequency:
        repeat |= {name: _plain(value) for name, value in frequency.value.items() if name != "when"}
    codes = [field.value["when"] for field in (frequency, when) if field and "when" in field.value]
    if codes:
        repeat["when"] = list(dict.fromkeys(codes))
    return repeat


def _quantity(field: Field | None) -> Json:
    if field is None or "value" not in field.value:
        return {}
    unit = {"unit": field.value["unit"]} if "unit" in field.value else {}
    return {**_extension([field]), "value": _plain(field.value["value"]), **unit}


def _plain(value: float | str | bool) -> float | int | str | bool:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _extension(fields: Sequence[Field], more: Sequence[Json] = ()) -> Json:
    """The lowest confidence of some fields, left out when one is unknown (FHIR has no null), and other extensions."""
    sure = lowest(field.confidence for field in fields)
    known = [] if sure is None else [{"url": CONFIDENCE, "valueDecimal": round(sure, 4)}]
    return {"extension": [*known, *more]} if known or more else {}
