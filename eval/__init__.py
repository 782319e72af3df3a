"""Evaluation: the same lines read by the OCR alone, the second reader alone, and both together.

python -m eval run CONFIG          systems and oracles side by side, with intervals
python -m eval report CONFIG       every set and every system as one page, with curves and ablations
python -m eval predict CONFIG …    one JSON line per row of a split, to be scored by anybody
python -m eval fit CONFIG          weights and calibration from training data
python -m eval ask CONFIG          what asking about some lines only keeps of a reader's gain
python -m eval bench CONFIG        pages per second against other programs, time per stage

datasets   splits in the TSV format, normalisations by name
metrics    pooled CER, exact match, bootstrap, calibration
trust      stretches, what their confidences are worth, and the curves of that
systems    one pass of the engine over a split, everything each reader said
rules      the same evidence decided on under other rules; reads that are kept
outside    systems of others, each in a process of its own
runs       one split: the table of `eval run`
figures    all figures of one split
plots      drawings
report     all splits: `eval report`
simulate   a second reader for training lines that have no recorded one
fit        weights by minimum risk, calibration
ask        the gain against the share of lines asked
bench      how fast, and where the time goes; rivals and paddle_models open what it is held against
"""
