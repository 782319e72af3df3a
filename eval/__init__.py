"""Evaluation: the same lines read by the OCR alone, the second reader alone, and both together.

python -m eval run CONFIG          systems and oracles side by side, with intervals
python -m eval report CONFIG       every set and every system as one page, with curves and ablations
python -m eval predict CONFIG …    one JSON line per row of a split, to be scored by anybody
python -m eval fit CONFIG          weights from training data
python -m eval calibrate           confidences and limits of the review, after a fit
python -m eval probe               what should not happen, counted
python -m eval labels SPLIT        labels that are probably wrong
python -m eval batch CONFIG        what a batch run promises
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
cases      training lines: hypotheses, what experts say of each, errors
fit        weights by minimum risk; calibrate: which stretches are right, maps and limits from that
probes     echoes, wrong hints, empty paper, faults; overcorrection: mistakes made on purpose
labels     readers that agree with each other and not with the label
batches    `eval batch`
ask        the gain against the share of lines asked
bench      how fast, and where the time goes; rivals and paddle_models open what it is held against
"""
