"""Many inputs: one row for each whatever happens, in a folder that a run killed at any moment goes on from.

plan      which inputs there are, and what is to be done with them
record    the run's own record: which inputs are done; locked while a run works
remote    inputs of an object store
worker    a process that reads inputs and writes their files
pool      processes that are replaced when they die
tables    all results in input order, put together from record and files
progress  how far the run is, for people and for machines
run       the story: plan → workers → record → tables
"""

from fusion.batch.plan import Plan, make_plan
from fusion.batch.run import Ended, estimate, run_batch

__all__ = ["Ended", "Plan", "estimate", "make_plan", "run_batch"]
