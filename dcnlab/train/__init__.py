"""Training of InternImage: data, augmentation, optimiser, schedule, and the record of a run."""
