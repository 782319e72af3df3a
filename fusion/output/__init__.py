"""Output: a finished Page in every format, a comparison, and a review page; and the corrections that come back.

Whatever is written here is derived from a `Page` and can be written again at any time; nothing is read or decided.

    formats      all formats by name, printed or as files; plain text and Markdown
    units        words and characters with places and alternatives, as exchange formats take them
    markup       XML built from elements
    tei, pagexml, alto, hocr, pdf, overlay, labelstudio, paddle, table (CSV), fhir: one writer each
    edits        corrections made in other programs
    marks        how a source looks: colour, letter, underline
    crops        lines cut out of the photograph
    compare      OCR-only against fused: differences, counts, character error rate
    console      a comparison in the terminal
    report       a comparison as one self-contained HTML file
    review       the stretches that a person must look at, and the corrections that come back
"""
