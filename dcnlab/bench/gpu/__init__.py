"""`dcnlab bench gpu`: every rung on a GPU, beside other libraries and beside what the GPU could do at best.

Which way data flows: `device` (the GPU and its clock) -> `ceilings` (what it can do, measured by kernels/probes) ->
`floors` (what a problem takes at least); `workloads` (the problems) -> `rungs`, `peers`, `models` (who solves them, and
how long that takes, by `timing`) -> `run` (in which order, until when) -> `report` (text, JSON, tables), `plots`.
"""
