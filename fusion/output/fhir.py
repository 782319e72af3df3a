"""Medications as FHIR R4: a Bundle of MedicationRequest resources (https://hl7.org/fhir/R4/medicationrequest.html).

Knows the records of a prescription; knows no page image. A machine's reading is nobody's order: every request is a draft
and a proposal, and no patient is named. What was not understood stays text; confidences stand in extensions.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from fusion.page import Field, Page, Record, lowest

CONFIDENCE = "urn:fusion:confidence"
"""Extension with the lowest confidence of an element's characters, a decimal in [0, 1]."""
CHECK = "urn:fusion:check"
"""Extension with a remark of the profile."""
_DIRECTIONS = ("form", "dose", "route", "frequency", "when", "as_needed", "duration", "text")


def medication_requests(pages: Sequence[Page]) -> str:
    """The medications of some pages as one JSON Bundle; pages without any give an empty collection."""
    requests = [_request(page, record, number) for page in pages for number, record in enumerate(_medications(page), 1)]
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "collection"}
    if requests:
        bundle["entry"] = [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r} for r in requests]
    return json.dumps(bundle, ensure_ascii=False, indent=1) + "\n"


def _medications(page: Page) -> list[Record]:
    return [record for record in page.records if record.kind == "medication"]


def _request(page: Page, record: Record, number: int) -> dict[str, Any]:
    drug, strength = record.get("drug"), record.get("strength")
    name = " ".join(field.text for field in (drug, strength) if field is not None)
    remarks = page.about(record)
    fields = [field for field in record.fields if field.name in _DIRECTIONS]
    request: dict[str, Any] = {
        "resourceType": "MedicationRequest",
        # The same page read again has the same ids, and no two pages share one.
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"fusion {page.image_sha256} {page.id} {number}")),
        "extension": [
            *_confidence(record.fields),
            *({"url": CHECK, "valueString": f"{check.kind}: {check.message}"} for check in remarks),
        ],
        "status": "draft",
        "intent": "proposal",
        "medicationCodeableConcept": {**_extended(drug), "text": name},
        "subject": {"display": "not extracted"},
    }
    if fields:
        request["dosageInstruction"] = [_dosage(record, fields)]
    quantity = _quantity(record.get("quantity"))
    if quantity:
        request["dispenseRequest"] = {"quantity": quantity}
    if not request["extension"]:
        del request["extension"]
    return request


def _dosage(record: Record, fields: Sequence[Field]) -> dict[str, Any]:
    """`Dosage`: the words as they stand, and beside them what was understood."""
    dosage: dict[str, Any] = {**_extension(fields), "text": " ".join(field.text for field in fields)}
    repeat = _repeat(record)
    if repeat:
        dosage["timing"] = {"repeat": repeat}
    if record.get("as_needed") is not None:
        dosage["asNeededBoolean"] = True
    route = record.get("route")
    if route is not None:
        dosage["route"] = {"text": str(route.value.get("code", route.text))}
    dose = _quantity(record.get("dose"))
    if dose:
        dosage["doseAndRate"] = [{"doseQuantity": dose}]
    return dosage


def _repeat(record: Record) -> dict[str, Any]:
    """`Timing.repeat`. FHIR forbids `when` beside `timeOfDay`, which is never written."""
    repeat: dict[str, Any] = {}
    duration, frequency, when = (record.get(name) for name in ("duration", "frequency", "when"))
    if duration is not None and duration.value:
        unit = duration.value["unit"]
        repeat["boundsDuration"] = {
            "value": _plain(duration.value["value"]),
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        }
    if frequency is not None:
        repeat |= {name: _plain(value) for name, value in frequency.value.items() if name != "when"}
    codes = [field.value["when"] for field in (frequency, when) if field is not None and "when" in field.value]
    if codes:
        repeat["when"] = list(dict.fromkeys(codes))
    return repeat


def _quantity(field: Field | None) -> dict[str, Any]:
    if field is None or "value" not in field.value:
        return {}
    quantity: dict[str, Any] = {**_extended(field), "value": _plain(field.value["value"])}
    if "unit" in field.value:
        quantity["unit"] = field.value["unit"]
    return quantity


def _plain(value: float | str | bool) -> float | int | str | bool:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _confidence(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """The lowest confidence of some fields; nothing when one is unknown: FHIR has no null."""
    sure = lowest(field.confidence for field in fields)
    return [] if sure is None else [{"url": CONFIDENCE, "valueDecimal": round(sure, 4)}]


def _extension(fields: Sequence[Field]) -> dict[str, Any]:
    found = _confidence(fields)
    return {"extension": found} if found else {}


def _extended(field: Field | None) -> dict[str, Any]:
    return _extension([field]) if field is not None else {}
