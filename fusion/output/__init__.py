"""Output: a finished Page as text, JSON, CSV, FHIR, TEI, a picture, a comparison, and a review page.

Whatever is written here is derived from a `Page` and can be written again at any time; nothing is read or decided.

    formats   plain text, and all formats by name, printed or as files
    marks     how a source looks: colour, letter, underline
    crops     lines cut out of the photograph
    overlay   the photograph with lines and spans drawn on it
    compare   OCR-only against fused: differences, counts, character error rate
    console   a comparison in the terminal
    report    a comparison as one self-contained HTML file
    fhir      medications as FHIR R4
    table     records as CSV
    tei       the transcript as TEI, with what is struck out, added, unclear, supplied
    review    the stretches that a person must look at, and the corrections that come back
"""
