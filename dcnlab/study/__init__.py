"""Studies: what the papers claim, computed again here, at the size of a CPU.

Each has a function ``run(out, seed)`` that prints its table, records its numbers and writes its figures and a page:

- `dcnlab.study.operators`: attention, a large kernel and DCNv3 on the same input, as figure 1 of the InternImage paper
  compares them.

`dcnlab.study.receptive_figures` draws effective receptive fields before and after training.
"""
