"""Training: an InternImage from scratch, resumable, over several processes (`dcnlab train`)."""
