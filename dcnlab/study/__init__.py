"""Studies: questions about the operators and the model that a run of a few minutes answers with figures and a page."""
