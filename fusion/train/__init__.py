"""Training the small reader: a GLM of a few megabytes that ships with the package, and going on from it with one's own hand.

Knows texts, fonts, crops and losses; nothing of reading pages or deciding. Nothing here is imported by the engine.
"""
